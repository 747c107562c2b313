"""Answers of one person as JSON lines; a line is on disk before the next question is shown.

A killed process can leave an incomplete last line. That answer was never acknowledged, so the line is removed when
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
    """Answer of one person about some images."""

    shown: tuple[str, ...]
    """Sample ids in the order of display."""
    answer: int | str
    """Index of the best image in `shown`, "tie" or "skip"."""
    annotator: str
    """Hash of the person's name."""
    dimension: str = OVERALL
    """Question that was asked about the images."""

    def line(self) -> bytes:
        """Return the answer as a JSON line; the default dimension is omitted."""
        fields = asdict(self)
        if self.dimension == OVERALL:
            del fields["dimension"]
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


class Journal:
    """Answers of one person in the file `path`, which is open only during reads and writes."""

    def __init__(self, path: Path) -> None:
        """Read the file if it exists.

        Raises:
            DamagedError: the file is not a journal.
        """
        self.path = path
        self.answers: list[Answer] = []
        self._ends = [0]
        if not os.path.lexists(path):
            return
        with self._opened() as file:
            data = _read(file)
            complete = data[: data.rfind(b"\n") + 1]
            for number, line in enumerate(complete.splitlines(keepends=True), 1):
                try:
                    fields: dict[str, Any] = parse_json(line)
                    self.answers.append(_answer(**fields))
                except (ValueError, TypeError, KeyError, RecursionError) as error:
                    raise DamagedError(
                        f"{path}:{number}: not an answer of ppod-pair label: remove the line, or give another --name"
                    ) from error
                self._ends.append(self._ends[-1] + len(line))
            self._cut(file)

    def append(self, answer: Answer) -> None:
        """Append an answer; it is on disk when this method returns."""
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
        """Remove the last answer; it is removed from disk when this method returns."""
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
