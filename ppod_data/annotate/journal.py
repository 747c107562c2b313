"""The answers of one person as JSON lines: a line is on the disk before the next question is shown.

A process that is killed leaves at most a last line without an end, which was never acknowledged: it is cut off when
the journal is opened again.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppod_data.errors import DamagedError
from ppod_data.labels.answers import OVERALL
from ppod_data.storage.files import sync
from ppod_data.storage.json_reader import parse_json
from ppod_data.storage.real_folders import open_in_place

TIE, SKIP = "tie", "skip"


@dataclass(frozen=True)
class Answer:
    """What one person said about some images."""

    shown: tuple[str, ...]
    """Sample ids in the order in which they were shown."""
    answer: int | str
    """The place of the best one in `shown`, "tie" or "skip"."""
    annotator: str
    """A hash."""
    dimension: str = OVERALL
    """What was asked about the images."""

    def line(self) -> bytes:
        """The answer as JSON; a dimension that is not the usual one is named."""
        told = asdict(self)
        if self.dimension == OVERALL:
            del told["dimension"]
        return json.dumps(told, separators=(",", ":")).encode() + b"\n"


class Journal:
    """One person's answers, in the file `path`; it is open only while it is read or written."""

    def __init__(self, path: Path) -> None:
        """Read the file, where there is one. Raises DamagedError for one that no journal wrote."""
        self.path = path
        self.answers: list[Answer] = []
        self._ends = [0]
        if not os.path.lexists(path):
            return
        with self._opened() as file:
            data = _read(file)
            whole = data[: data.rfind(b"\n") + 1]
            for number, line in enumerate(whole.splitlines(keepends=True), 1):
                try:
                    told: dict[str, Any] = parse_json(line)
                    self.answers.append(_answer(**told))
                except (ValueError, TypeError, KeyError, RecursionError) as error:
                    raise DamagedError(
                        f"{path}:{number}: no answer of ppod-pair label: remove the line, or take another --name"
                    ) from error
                self._ends.append(self._ends[-1] + len(line))
            self._cut(file)

    def append(self, answer: Answer) -> None:
        """Add an answer; it is on the disk when this returns."""
        line = answer.line()
        with self._opened() as file:
            try:
                written = os.pwrite(file, line, self._ends[-1])
                if written != len(line):
                    raise OSError(f"{self.path}: the disk took {written} of {len(line)} bytes")
                os.fsync(file)
            except OSError:
                self._cut(file)
                raise
        self.answers.append(answer)
        self._ends.append(self._ends[-1] + len(line))

    def undo(self) -> Answer:
        """Remove the last answer; it is gone from the disk when this returns."""
        with self._opened() as file:
            answer = self.answers.pop()
            self._ends.pop()
            self._cut(file)
        return answer

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        is_new = not os.path.lexists(self.path)
        file = open_in_place(self.path, 0o600)
        try:
            if is_new:
                sync(self.path.parent)
            yield file
        finally:
            os.close(file)

    def _cut(self, file: int) -> None:
        os.ftruncate(file, self._ends[-1])
        os.fsync(file)


def _answer(*, shown: list[str], answer: int | str, annotator: str, dimension: str = OVERALL) -> Answer:
    return Answer(tuple(shown), answer, annotator, dimension)


def _read(file: int) -> bytes:
    with os.fdopen(os.dup(file), "rb") as opened:
        return opened.read()
