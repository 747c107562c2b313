"""The answers of one person as JSON lines: a line is on the disk before the next question is shown.

A process that is killed leaves at most a last line without an end, which was never acknowledged: it is cut off when
the journal is opened again.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppod_data.errors import DamagedError
from ppod_data.files import sync
from ppod_data.real_folders import open_in_place

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


class Journal:
    """One person's answers, in the file `path`."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it. Raises DamagedError for one that no journal wrote."""
        self.path = path
        self._file = open_in_place(path, 0o600)
        sync(path.parent)
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        self.answers: list[Answer] = []
        self._ends = [0]
        for number, line in enumerate(whole.splitlines(keepends=True), 1):
            try:
                told: dict[str, Any] = json.loads(line)
                self.answers.append(Answer(tuple(told["shown"]), told["answer"], told["annotator"]))
            except (ValueError, TypeError, KeyError) as error:
                raise DamagedError(
                    f"{path}:{number}: no answer of ppod-pair label: remove the line, or take another --name"
                ) from error
            self._ends.append(self._ends[-1] + len(line))
        self._cut()

    def append(self, answer: Answer) -> None:
        """Add an answer; it is on the disk when this returns."""
        line = json.dumps(asdict(answer), separators=(",", ":")).encode() + b"\n"
        try:
            written = os.pwrite(self._file, line, self._ends[-1])
            if written != len(line):
                raise OSError(f"{self.path}: the disk took {written} of {len(line)} bytes")
            os.fsync(self._file)
        except OSError:
            self._cut()
            raise
        self.answers.append(answer)
        self._ends.append(self._ends[-1] + len(line))

    def undo(self) -> Answer:
        """Remove the last answer; it is gone from the disk when this returns."""
        answer = self.answers.pop()
        self._ends.pop()
        self._cut()
        return answer

    def close(self) -> None:
        os.close(self._file)

    def _cut(self) -> None:
        os.ftruncate(self._file, self._ends[-1])
        os.fsync(self._file)
