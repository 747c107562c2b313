"""Who is asked what next: questions are shared out, some come again, and the order on the page is random.

All that matters is in the journals. What this process knows besides is which questions are on a screen right now, so
that two people are not asked the same thing when one answer is enough; after a restart nothing is lost.
"""

import contextlib
import fcntl
import hmac
import json
import os
import secrets
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppod_data.annotate.journal import SKIP, TIE, Answer, Journal
from ppod_data.annotate.questions import Question
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.labels.answers import OVERALL
from ppod_data.labels.rows import Annotators
from ppod_data.storage.files import atomic_create, read_small
from ppod_data.storage.real_folders import make_folder
from ppod_data.support.noise import generator

_REPEAT_AFTER = 5
"""A question comes again after at least so many others."""
_MAX_NAME = 80
_MOST_ON_SCREEN = 1024
"""People whose question is remembered: made-up names must not reserve them all, nor fill the memory."""
_SALT_BYTES = 32
_SUFFIX = ".jsonl"
_SALT = ".salt"


class StaleError(ConfigError):
    """The page is not where the journal is: it must ask again what is next."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one person sees."""

    number: int
    """Answers that the person has given: what comes is the next."""
    question: Question | None
    """None: there is nothing left to ask."""
    shown: tuple[str, ...]
    """The question's ids in the order in which they are shown."""
    ticket: str
    """Proves, also after a restart, that this person was asked this question."""
    num_done: int
    """Answers of all, and all that are wanted."""
    num_wanted: int


@dataclass(frozen=True, kw_only=True)
class Count:
    """What was answered."""

    num_answers: int
    num_ties: int
    num_skipped: int
    num_annotators: int
    num_repeated: int
    num_repeated_alike: int
    """Of them, answered as the first time."""


class Session:
    """The questions of one table of labels, and the journals of the people who answer them."""

    def __init__(
        self,
        folder: Path,
        questions: Sequence[Question],
        people: Annotators,
        *,
        answers_per_question: int = 1,
        repeat_share: float = 0.0,
        seed: int = 0,
        dimension: str = OVERALL,
    ) -> None:
        """Reads the journals in `folder`, which is made.

        Args:
            answers_per_question: different people who are asked each question.
            repeat_share: of the questions are ones that the person has answered before.
            dimension: what is asked about the images.

        Raises:
            ConfigError: another process has these journals open, or they hold answers on another dimension.
            DamagedError: a file in the folder that is no journal.
        """
        make_folder(folder)
        self._lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # some network file systems have no locks
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._lock)
                raise ConfigError(
                    f"{folder}: another ppod-pair label is collecting answers here: use its page, or another --name"
                ) from error
        self.folder = folder
        self.questions = list(questions)
        self.people = people
        self._answers_per_question = answers_per_question
        self._repeat_share = repeat_share
        self._seed = seed
        self._known = {frozenset(question.ids): question for question in questions}
        self._journals = {path.stem: Journal(path) for path in sorted(folder.glob(f"[!.]*{_SUFFIX}"))}
        self.dimension = dimension
        self._check_dimension()
        self._on_screen: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def next(self, name: str) -> Turn:
        """What a person is asked: what is on the screen already, a repeated question, or a new one."""
        who = self._person(name)
        journal = self._journal(who)
        shown = self._on_screen.get(who)
        if shown is None or frozenset(shown) not in self._known:
            question = self._again(who, journal) or self._fresh(who, journal)
            if question is None:
                self._on_screen.pop(who, None)
                return self._turn(who, journal, None, ())
            shown = self._order(who, question, journal)
        self._show(who, shown)
        return self._turn(who, journal, self._known[frozenset(shown)], shown)

    def record(
        self, name: str, number: int, shown: Sequence[str], answer: int | str, ticket: str = ""
    ) -> None:
        """Keep the answer to question `number`; it is durable when this returns.

        An answer that was kept already, and whose acknowledgement was lost, is not kept twice.

        Args:
            ticket: of the turn; without it the question must be on the person's screen.

        Raises:
            StaleError: the journal is elsewhere, the person was not asked this question, another answer to it was kept,
                or other people's answers are enough.
        """
        who = self._person(name)
        journal = self._journal(who)
        shown = tuple(shown)
        if number == len(journal.answers) - 1 and journal.answers[-1].shown == shown:
            if journal.answers[-1].answer == answer:
                return
            raise StaleError("this question has another answer of yours: go back to change it")
        if number != len(journal.answers) or frozenset(shown) not in self._known:
            raise StaleError("this question is not open any more")
        is_ours = hmac.compare_digest(
            self._ticket(who, number, shown).encode(), ticket.encode("utf-8", "replace")
        )
        if self._on_screen.get(who) != shown and not is_ours:
            raise StaleError("you were not asked this question")
        if answer not in (TIE, SKIP) and answer not in range(len(shown)):
            raise ConfigError("an answer is the place of an image, tie or skip")
        if not self._is_wanted(who, journal, frozenset(shown)):
            self._on_screen.pop(who, None)
            raise StaleError("this question was answered meanwhile")
        self._journals[who] = journal
        journal.append(Answer(shown, answer, who, self.dimension))
        self._on_screen.pop(who, None)

    def withdraw(self, sample_id: str) -> None:
        """Ask no more about an image that cannot be shown."""
        for ids in [ids for ids in self._known if sample_id in ids]:
            del self._known[ids]

    def undo(self, name: str, number: int) -> None:
        """Take the last answer back, so that its question is asked again. `number` answers were given before.

        Raises StaleError where there is none, or the journal is elsewhere.
        """
        who = self._person(name)
        journal = self._journal(who)
        if not journal.answers or number != len(journal.answers):
            raise StaleError("there is nothing to take back")
        self._show(who, journal.undo().shown)

    def count(self) -> Count:
        """What all journals hold."""
        answers = [answer for journal in self._journals.values() for answer in journal.answers]
        first: dict[tuple[str, frozenset[str]], str | int] = {}
        repeated: list[bool] = []
        for one in answers:
            if one.answer == SKIP:
                continue
            said = one.answer if isinstance(one.answer, str) else one.shown[one.answer]
            unit = (one.annotator, frozenset(one.shown))
            if unit in first:
                repeated.append(said == first[unit])
            first.setdefault(unit, said)
        return Count(
            num_answers=len(first) + len(repeated),
            num_ties=sum(one.answer == TIE for one in answers),
            num_skipped=sum(one.answer == SKIP for one in answers),
            num_annotators=sum(bool(journal.answers) for journal in self._journals.values()),
            num_repeated=len(repeated),
            num_repeated_alike=sum(repeated),
        )

    def close(self) -> None:
        """Let another process have the journals."""
        os.close(self._lock)

    def _check_dimension(self) -> None:
        for journal in self._journals.values():
            if other := next((one for one in journal.answers if one.dimension != self.dimension), None):
                self.close()
                raise ConfigError(
                    f"{self.folder}: answers on {other.dimension}, not on {self.dimension}: give another --name"
                )

    def _person(self, name: str) -> str:
        """The hash of a person's name. Capitals, accents in two codes and invisible characters make no other person."""
        plain = " ".join(name.split())
        folded = unicodedata.normalize("NFC", plain).casefold()
        folded = "".join(one for one in folded if unicodedata.category(one) not in ("Cf", "Cc"))
        folded = " ".join(unicodedata.normalize("NFC", folded).split())
        if not folded or len(plain) > _MAX_NAME:
            raise ConfigError(f"a name has 1 to {_MAX_NAME} letters")
        who, before = self.people.hash(folded), self.people.hash(plain)
        assert who is not None and before is not None
        return before if before in self._journals and who not in self._journals else who

    def _journal(self, who: str) -> Journal:
        """The person's journal; its file is made with the first answer, so that a name alone leaves nothing."""
        return self._journals.get(who) or Journal(self.folder / f"{who}{_SUFFIX}")

    def _show(self, who: str, shown: tuple[str, ...]) -> None:
        self._on_screen[who] = shown
        self._on_screen.move_to_end(who)
        while len(self._on_screen) > _MOST_ON_SCREEN:
            self._on_screen.popitem(last=False)

    def _ticket(self, who: str, number: int, shown: Sequence[str]) -> str:
        return self.people.sign(json.dumps([who, number, list(shown)]))

    def _is_wanted(self, who: str, journal: Journal, ids: frozenset[str]) -> bool:
        """Whether the question wants this person's answer: a repeated one always does."""
        if any(frozenset(one.shown) == ids for one in journal.answers):
            return True
        return self._answered()[ids] < self._answers_per_question

    def _turn(self, who: str, journal: Journal, question: Question | None, shown: tuple[str, ...]) -> Turn:
        wanted = self._answers_per_question
        done = self._answered()
        return Turn(
            number=len(journal.answers),
            question=question,
            shown=shown,
            ticket=self._ticket(who, len(journal.answers), shown),
            num_done=sum(min(done[ids], wanted) for ids in self._known),
            num_wanted=wanted * len(self._known),
        )

    def _answered(self) -> Counter[frozenset[str]]:
        """How many people have answered each question."""
        return Counter(
            ids
            for journal in self._journals.values()
            for ids in {frozenset(one.shown) for one in journal.answers if one.answer != SKIP}
        )

    def _fresh(self, who: str, journal: Journal) -> Question | None:
        """The first question that the person has not seen, and that wants an answer.

        Those on other people's screens come last: one of them may have gone away.
        """
        seen = {frozenset(one.shown) for one in journal.answers}
        answered = self._answered()
        asked = answered + Counter(
            frozenset(shown) for other, shown in self._on_screen.items() if other != who
        )
        for counts in (asked, answered):
            for ids, question in self._known.items():
                if ids not in seen and counts[ids] < self._answers_per_question:
                    return question
        return None

    def _again(self, who: str, journal: Journal) -> Question | None:
        """Now and then a question that the person answered a while ago, once."""
        random = generator("label", self._seed, "repeat", who, len(journal.answers))
        if random.random() >= self._repeat_share:
            return None
        times = Counter(frozenset(one.shown) for one in journal.answers)
        earlier = journal.answers[:-_REPEAT_AFTER]
        once = [frozenset(one.shown) for one in earlier if one.answer != SKIP]
        once = [ids for ids in once if times[ids] == 1 and ids in self._known]
        return self._known[once[random.integers(len(once))]] if once else None

    def _order(self, who: str, question: Question, journal: Journal) -> tuple[str, ...]:
        times = sum(frozenset(one.shown) == frozenset(question.ids) for one in journal.answers)
        random = generator("label", self._seed, "order", who, *question.ids, times)
        return tuple(question.ids[i] for i in random.permutation(len(question.ids)))


def open_session(folder: Path, questions: Sequence[Question], **options: Any) -> Session:
    """The session whose journals are in `folder`, with the secret that hashes names; else as `Session`."""
    make_folder(folder)
    atomic_create(folder / _SALT, secrets.token_bytes(_SALT_BYTES))
    salt = read_small(folder / _SALT, _SALT_BYTES)
    if len(salt) != _SALT_BYTES:
        raise DamagedError(f"{folder / _SALT}: no secret of {_SALT_BYTES} bytes: give another --name")
    return Session(folder, questions, Annotators(salt, "ppod-label"), **options)
