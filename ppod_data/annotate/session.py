"""Assignment of questions to people: questions are shared, some are repeated, and the order on the page is random.

All durable state is in the journals. This process also tracks the questions that are on a screen, so that two
people are not asked the same question when one answer is enough. A restart loses no answer.
"""

import hmac
import json
import os
import secrets
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppod_data.annotate.journal import SALT, SKIP, TIE, Answer, Journal
from ppod_data.annotate.line_file import lock_folder
from ppod_data.annotate.questions import Question
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.labels.answers import OVERALL
from ppod_data.labels.rows import Annotators
from ppod_data.storage.files import atomic_create, read_small
from ppod_data.storage.real_folders import make_folder
from ppod_data.support.noise import generator

_REPEAT_AFTER = 5
"""Minimum number of other questions before a question is repeated."""
_MAX_NAME = 80
_MOST_ON_SCREEN = 1024
"""Maximum number of people whose question is tracked, so that invented names cannot reserve all questions."""
_SALT_BYTES = 32
_SUFFIX = ".jsonl"


class StaleError(ConfigError):
    """The page is out of date with the journal and must request the next question."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One person's next question."""

    number: int
    """Number of answers that the person has given."""
    question: Question | None
    """None if no question is left."""
    shown: tuple[str, ...]
    """The question's ids in the order of display."""
    ticket: str
    """Proof, valid across restarts, that this person was asked this question."""
    num_done: int
    """Answers of all people."""
    num_wanted: int
    """Answers needed from all people."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """Counts of the answers."""

    num_answers: int
    num_ties: int
    num_skipped: int
    num_annotators: int
    num_repeated: int
    num_repeated_alike: int
    """Repeated questions with the same answer as the first time."""


class Session:
    """Questions of one table of labels, and the journals of the people who answer them."""

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
        """Read the journals in `folder`, which is created if necessary.

        Args:
            answers_per_question: number of people who are asked each question.
            repeat_share: share of questions that repeat a question of the same person.
            dimension: the question that is asked about the images.

        Raises:
            ConfigError: another process has these journals open, or they hold answers on another dimension.
            DamagedError: a file in the folder is not a journal.
        """
        make_folder(folder)
        self._lock = lock_folder(folder)
        self.folder = folder
        self.questions = list(questions)
        self.people = people
        self._answers_per_question = answers_per_question
        self._repeat_share = repeat_share
        self._seed = seed
        self._by_ids = {frozenset(question.ids): question for question in questions}
        self._withdrawn: frozenset[str] = frozenset()
        self._known = self._open_questions()
        self._journals = {path.stem: Journal(path) for path in sorted(folder.glob(f"[!.]*{_SUFFIX}"))}
        self.dimension = dimension
        self._check_dimension()
        self._on_screen: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def next(self, name: str) -> Turn:
        """Return a person's question: the question on the screen, a repeated question, or a new one."""
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
        """Record the answer to question `number`; it is durable when this method returns.

        A resubmitted answer, whose acknowledgement was lost, is not recorded twice.

        Args:
            ticket: ticket of the turn; without a ticket the question must be on the person's screen.

        Raises:
            StaleError: the journal has advanced, the person was not asked this question, a different answer was
                recorded, or other people's answers are enough.
        """
        who = self._person(name)
        journal = self._journal(who)
        shown = tuple(shown)
        if number == len(journal.answers) - 1 and journal.answers[-1].shown == shown:
            if journal.answers[-1].answer == answer:
                return
            raise StaleError("you have answered this question differently: go back to change the answer")
        if number != len(journal.answers) or frozenset(shown) not in self._by_ids:
            raise StaleError("this question is no longer open")
        is_ours = hmac.compare_digest(
            self._ticket(who, number, shown).encode(), ticket.encode("utf-8", "replace")
        )
        if self._on_screen.get(who) != shown and not is_ours:
            raise StaleError("you were not asked this question")
        if answer not in (TIE, SKIP) and answer not in range(len(shown)):
            raise ConfigError("answer: expected the index of an image, tie or skip")
        if not self._is_wanted(who, journal, frozenset(shown)):
            self._on_screen.pop(who, None)
            raise StaleError("another person has answered this question")
        self._journals[who] = journal
        journal.append(Answer(shown, answer, who, self.dimension))
        self._on_screen.pop(who, None)

    def withdraw(self, sample_ids: Set[str]) -> None:
        """Ask no further question about these images, which cannot be shown; answers of people who saw them count."""
        self._withdrawn |= sample_ids
        self._known = self._open_questions()

    def restore(self, sample_ids: Set[str]) -> None:
        """Ask questions about these images again."""
        self._withdrawn -= sample_ids
        self._known = self._open_questions()

    def undo(self, name: str, number: int) -> None:
        """Remove the last of `number` answers, so that its question is asked again.

        Raises:
            StaleError: there is no answer, or the journal has advanced.
        """
        who = self._person(name)
        journal = self._journal(who)
        if not journal.answers or number != len(journal.answers):
            raise StaleError("there is no answer to undo")
        self._show(who, journal.undo().shown)

    def count(self) -> Count:
        """Count the answers in all journals."""
        answers = [answer for journal in self._journals.values() for answer in journal.answers]
        first: dict[tuple[str, frozenset[str]], str | int] = {}
        repeated: list[bool] = []
        for answer in answers:
            if answer.answer == SKIP:
                continue
            choice = answer.answer if isinstance(answer.answer, str) else answer.shown[answer.answer]
            key = (answer.annotator, frozenset(answer.shown))
            if key in first:
                repeated.append(choice == first[key])
            first.setdefault(key, choice)
        return Count(
            num_answers=len(first) + len(repeated),
            num_ties=sum(answer.answer == TIE for answer in answers),
            num_skipped=sum(answer.answer == SKIP for answer in answers),
            num_annotators=sum(bool(journal.answers) for journal in self._journals.values()),
            num_repeated=len(repeated),
            num_repeated_alike=sum(repeated),
        )

    def close(self) -> None:
        """Release the lock on the journals."""
        os.close(self._lock)

    def _open_questions(self) -> dict[frozenset[str], Question]:
        """Return the questions without withdrawn images, by their ids."""
        return {ids: question for ids, question in self._by_ids.items() if ids.isdisjoint(self._withdrawn)}

    def _check_dimension(self) -> None:
        for journal in self._journals.values():
            if other := next(
                (answer for answer in journal.answers if answer.dimension != self.dimension), None
            ):
                self.close()
                raise ConfigError(
                    f"{self.folder}: answers on {other.dimension}, not on {self.dimension}: give another --name"
                )

    def _person(self, name: str) -> str:
        """Return the hash of a person's name.

        Case, equivalent Unicode accents and invisible characters do not distinguish people.
        """
        stripped = " ".join(name.split())
        folded = unicodedata.normalize("NFC", stripped).casefold()
        folded = "".join(
            character for character in folded if unicodedata.category(character) not in ("Cf", "Cc")
        )
        folded = " ".join(unicodedata.normalize("NFC", folded).split())
        if not folded or len(stripped) > _MAX_NAME:
            raise ConfigError(f"name: expected 1 to {_MAX_NAME} letters")
        who, earlier = self.people.hash(folded), self.people.hash(stripped)
        assert who is not None and earlier is not None
        return earlier if earlier in self._journals and who not in self._journals else who

    def _journal(self, who: str) -> Journal:
        """Return the person's journal; the first answer creates its file, so that a name alone leaves no file."""
        return self._journals.get(who) or Journal(self.folder / f"{who}{_SUFFIX}")

    def _show(self, who: str, shown: tuple[str, ...]) -> None:
        self._on_screen[who] = shown
        self._on_screen.move_to_end(who)
        while len(self._on_screen) > _MOST_ON_SCREEN:
            self._on_screen.popitem(last=False)

    def _ticket(self, who: str, number: int, shown: Sequence[str]) -> str:
        return self.people.sign(json.dumps([who, number, list(shown)]))

    def _is_wanted(self, who: str, journal: Journal, ids: frozenset[str]) -> bool:
        """Return True if the question needs this person's answer; a repeated question always does."""
        if any(frozenset(earlier.shown) == ids for earlier in journal.answers):
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
        """Count the people who have answered each question."""
        return Counter(
            ids
            for journal in self._journals.values()
            for ids in {frozenset(answer.shown) for answer in journal.answers if answer.answer != SKIP}
        )

    def _fresh(self, who: str, journal: Journal) -> Question | None:
        """Return the first question that the person has not seen and that needs an answer.

        Questions on other people's screens come last; they are assigned again because those people may have left.
        """
        seen = {frozenset(answer.shown) for answer in journal.answers}
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
        """Return, with probability `repeat_share`, a question that the person answered once some time ago."""
        random = generator("label", self._seed, "repeat", who, len(journal.answers))
        if random.random() >= self._repeat_share:
            return None
        times = Counter(frozenset(answer.shown) for answer in journal.answers)
        earlier = journal.answers[:-_REPEAT_AFTER]
        once = [frozenset(answer.shown) for answer in earlier if answer.answer != SKIP]
        once = [ids for ids in once if times[ids] == 1 and ids in self._known]
        return self._known[once[random.integers(len(once))]] if once else None

    def _order(self, who: str, question: Question, journal: Journal) -> tuple[str, ...]:
        times = sum(frozenset(answer.shown) == frozenset(question.ids) for answer in journal.answers)
        random = generator("label", self._seed, "order", who, *question.ids, times)
        return tuple(question.ids[i] for i in random.permutation(len(question.ids)))


def open_session(folder: Path, questions: Sequence[Question], **options: Any) -> Session:
    """Open the session whose journals are in `folder`, with the folder's salt; options and errors as for `Session`.

    Raises:
        ConfigError: the folder holds the answers of a judge. Nothing is written then.
        DamagedError: the salt has another size.
    """
    make_folder(folder)
    _create_salt(folder)
    salt = read_small(folder / SALT, _SALT_BYTES)
    if len(salt) != _SALT_BYTES:
        raise DamagedError(f"{folder / SALT}: expected a salt of {_SALT_BYTES} bytes: give another --name")
    return Session(folder, questions, Annotators(salt, "ppod-label"), **options)


def _create_salt(folder: Path) -> None:
    """Create a missing salt, which marks the answers in a folder as people's.

    The lock keeps it out of the folder of a judge that is still waiting for its first answer.
    """
    lock = lock_folder(folder)
    try:
        if not (folder / SALT).exists() and any(folder.glob(f"[!.]*{_SUFFIX}")):
            raise ConfigError(
                f"{folder} holds a judge's answers, or people's without their {SALT}: give people another --name"
            )
        atomic_create(folder / SALT, secrets.token_bytes(_SALT_BYTES))
    finally:
        os.close(lock)
