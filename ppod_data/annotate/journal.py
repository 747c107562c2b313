"""Answers of one person as JSON lines; a line is on disk before the next question is shown.

A killed process can leave an incomplete last line. That answer was never acknowledged, so the line is removed when
the journal is read again.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppod_data.annotate.line_file import LineFile
from ppod_data.errors import DamagedError
from ppod_data.labels.answers import OVERALL
from ppod_data.storage.json_reader import parse_json

TIE, SKIP = "tie", "skip"
SALT = ".salt"
"""File of the salt of people's names, in the folder of their journals."""


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
    """Answers of one person in the file `path`."""

    def __init__(self, path: Path) -> None:
        """Read the file if it exists.

        Raises:
            DamagedError: the file is not a journal.
        """
        self.path = path
        self._file = LineFile(path)
        self.answers: list[Answer] = []
        for number, line in enumerate(self._file.lines, 1):
            try:
                fields: dict[str, Any] = parse_json(line)
                self.answers.append(_answer(**fields))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise DamagedError(
                    f"{path}:{number}: not an answer of ppod-pair label: remove the line, or give another --name"
                ) from error

    def append(self, answer: Answer) -> None:
        """Append an answer; it is on disk when this method returns."""
        self._file.append(answer.line())
        self.answers.append(answer)

    def undo(self) -> Answer:
        """Remove the last answer; it is removed from disk when this method returns."""
        self._file.remove_last()
        return self.answers.pop()


def _answer(*, shown: list[str], answer: int | str, annotator: str, dimension: str = OVERALL) -> Answer:
    return Answer(tuple(shown), answer, annotator, dimension)
