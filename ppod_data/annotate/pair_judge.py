"""Questions about two images that a vision language model answers, kept as JSON lines like people's answers.

Each judge has a file, named after its model and a hash of all that changes an answer. A line is on disk before the
next one is written, so a killed command resumes. An unreadable answer is a line with the reason, and is asked again.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ppod_data.annotate.journal import SALT
from ppod_data.annotate.line_file import LineFile, lock_folder
from ppod_data.annotate.question_images import read_question_images
from ppod_data.annotate.questions import Question
from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError, RewardError
from ppod_data.labels.answers import OVERALL
from ppod_data.rewards.numbers import NoScore
from ppod_data.rewards.usage import Usage
from ppod_data.rewards.vlm.pairs import PairJudge
from ppod_data.storage.json_reader import parse_json
from ppod_data.storage.real_folders import make_folder
from ppod_data.support.noise import generator
from ppod_data.support.prefetch import map_ahead
from ppod_data.support.progress import SILENT, Progress

_BLOCK = 64
"""Questions whose images are in memory at once."""
_FEWEST = 8
"""Answers that must all be unreadable before the judge is rejected."""


@dataclass(frozen=True, kw_only=True)
class JudgeSummary:
    """The result of one call, and the state of the judge's file."""

    file: str
    num_judged: int
    """Pairs that this call judged."""
    num_unreadable: int
    """Pairs without a readable answer in this call, or without images that can be shown."""
    num_skipped: int
    """Pairs that had been judged."""
    first_unreadable: str | None
    num_answers: int
    """Pairs with a readable answer in the file; the next two figures are about these."""
    first_preferred: float | None
    """Mean probability of the image shown first, over both orders of every pair; 0.5 without a bias to a side."""
    num_reversed: int
    """Pairs of which the preferred image changes with the order."""
    usage: Usage


@dataclass(frozen=True)
class _NotShown:
    """The reason why the judge was not asked about a pair: an image cannot be shown."""

    reason: str


_Result = tuple[float, float] | NoScore | _NotShown


def judge_pairs(
    dataset: Dataset,
    judge: PairJudge,
    questions: Sequence[Question],
    folder: Path,
    *,
    dimension: str = OVERALL,
    seed: int = 0,
    progress: Progress = SILENT,
) -> JudgeSummary:
    """Ask a judge about each pair of images that it has not judged, in both orders.

    Args:
        dataset: the data set of the images.
        judge: the model and its question.
        questions: each about two images.
        folder: of the answers; created if necessary.
        dimension: what the question is about.
        seed: of the order in which the images of a pair are shown first.
        progress: counts pairs.

    Raises:
        ConfigError: the folder holds people's answers, or another process writes to it.
        RewardError: none of the first answers can be read.
        RewardUnavailableError: the server does not respond; the answers so far are kept.
        DamagedError: the file of answers is damaged, or no pair has images that can be shown.
    """
    lock = _lock(folder)
    try:
        file = LineFile(folder / f"{judge.settings.name}-{judge.revision}.jsonl")
        known = _known(file, dimension)
        todo = [question for question in questions if frozenset(question.ids) not in known]
        progress.start(len(questions), "pairs")
        progress.skip(len(questions) - len(todo))
        reasons: list[str] = []
        nonsense: list[str] = []
        for question, result in _results(dataset, judge, todo, seed):
            file.append(_line(judge, question, result, dimension))
            if isinstance(result, tuple):
                known[frozenset(question.ids)] = result
            else:
                reasons.append(result.reason)
                nonsense += [result.reason] if isinstance(result, NoScore) else []
                _refuse_nonsense(judge, nonsense, is_proven=bool(known))
            progress.advance(1)
    finally:
        os.close(lock)
    if reasons and not known and not nonsense:
        raise DamagedError(reasons[0])
    return _summary(judge, file, reasons, known, num_questions=len(questions), num_todo=len(todo))


def _summary(
    judge: PairJudge,
    file: LineFile,
    reasons: Sequence[str],
    known: Mapping[frozenset[str], tuple[float, float]],
    *,
    num_questions: int,
    num_todo: int,
) -> JudgeSummary:
    """Return the summary of a call with `num_todo` pairs to judge; `reasons` are of those without an answer."""
    shares = list(known.values())
    total = sum(first + second for first, second in shares)
    return JudgeSummary(
        file=str(file.path),
        num_judged=num_todo - len(reasons),
        num_unreadable=len(reasons),
        num_skipped=num_questions - num_todo,
        first_unreadable=next(iter(reasons), None),
        num_answers=len(shares),
        first_preferred=total / (2 * len(shares)) if shares else None,
        num_reversed=sum((first - 0.5) * (second - 0.5) > 0 for first, second in shares),
        usage=judge.usage,
    )


def _lock(folder: Path) -> int:
    """Make and lock the folder of a judge's answers. Raises ConfigError for one of people's."""
    if (folder / SALT).exists():
        raise ConfigError(f"{folder} holds people's answers: give the judge another --name")
    make_folder(folder)
    return lock_folder(folder)


def _refuse_nonsense(judge: PairJudge, reasons: Sequence[str], *, is_proven: bool) -> None:
    """Raise RewardError if the first answers were all unreadable."""
    if not is_proven and len(reasons) >= _FEWEST:
        raise RewardError(
            f"{judge.settings.model} gave no readable answer to the first {_FEWEST} questions ({reasons[0]}): ask for "
            "1 or 2 in pair_question, or take another model"
        )


def _known(file: LineFile, dimension: str) -> dict[frozenset[str], tuple[float, float]]:
    """Return the readable answers of a file on a dimension, by their images. Raises DamagedError for another file."""
    known = {}
    for number, line in enumerate(file.lines, 1):
        try:
            row: dict[str, Any] = parse_json(line)
            if "unreadable" not in row and row.get("dimension", OVERALL) == dimension:
                first, second = row["first_preferred"]
                known[frozenset(row["shown"])] = (float(first), float(second))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedError(
                f"{file.path}:{number}: not an answer of ppod-pair judge: remove the line, or give another --name"
            ) from error
    return known


def _results(
    dataset: Dataset, judge: PairJudge, questions: Sequence[Question], seed: int
) -> Iterator[tuple[Question, _Result]]:
    """Yield each question, its images in the order shown first, with the answer.

    Raises:
        OSError: the system does not let this process read an image, which may be intact.
    """
    threads = judge.settings.concurrency
    for start in range(0, len(questions), _BLOCK):
        shown = [_ordered(question, seed) for question in questions[start : start + _BLOCK]]
        ids = [name for question in shown for name in question.ids]
        images, unreadable = read_question_images(dataset, ids)
        if refusal := next((each.refusal for each in unreadable if each.refusal is not None), None):
            raise refusal
        reasons = {name: each.reason for each in unreadable for name in each.sample_ids}

        def ask(
            question: Question, images: dict[str, Image.Image] = images, reasons: dict[str, str] = reasons
        ) -> _Result:
            if hidden := [name for name in question.ids if name not in images]:
                return _NotShown(reasons[hidden[0]])
            return judge.compare(question.prompt, *(images[name] for name in question.ids))

        yield from zip(shown, map_ahead(ask, shown, threads=threads, ahead=2 * threads), strict=True)


def _ordered(question: Question, seed: int) -> Question:
    order = generator("label", seed, "judge", *sorted(question.ids)).permutation(2)
    return Question(question.prompt, tuple(question.ids[place] for place in order))


def _line(judge: PairJudge, question: Question, result: _Result, dimension: str) -> bytes:
    answer = {"first_preferred": list(result)} if isinstance(result, tuple) else {"unreadable": result.reason}
    row = {
        "shown": list(question.ids),
        **answer,
        "judge": f"{judge.chat.reported} {judge.revision}",
        "question": judge.settings.ask_pair("{prompt}"),
        **({} if dimension == OVERALL else {"dimension": dimension}),
    }
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"
