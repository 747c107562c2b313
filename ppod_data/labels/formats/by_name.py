"""The label formats by name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppod_data.labels.answers import Parser, Record
from ppod_data.labels.files.records import all_records, label_files
from ppod_data.labels.formats import (
    argilla,
    d3po,
    folders,
    hpdv2,
    hpdv3,
    imagerewarddb,
    label_studio,
    pickapic,
    plain,
    ppod_judge,
    ppod_label,
    rapidata,
    richhf,
)


@dataclass(frozen=True)
class Format:
    """Functions that read a format: one record at a time, and optionally many rows in bulk."""

    parse: Parser
    columns: Callable[[Any], Any] | None = None
    check_shape: Callable[..., None] | None = None
    """For formats that name images only by position: rejects a file whose shape differs from the data set's."""
    files: Callable[[Path], list[Path]] = label_files
    """The path that a user gives -> the files that hold records."""
    records: Callable[[Path], Iterator[Record]] = all_records
    """A file -> its records."""


FORMATS = {
    "pickapic": Format(pickapic.parse, pickapic.columns),
    "hpdv2": Format(hpdv2.parse),
    "hpdv3": Format(hpdv3.parse),
    "imagerewarddb": Format(imagerewarddb.parse),
    "open-image-preferences": Format(argilla.parse),
    "rapidata": Format(rapidata.parse),
    "richhf": Format(richhf.parse),
    "d3po": Format(d3po.parse, check_shape=d3po.check_shape),
    "folders": Format(folders.parse, files=folders.image_files, records=folders.records),
    "label-studio": Format(label_studio.parse),
    "argilla": Format(argilla.parse),
    "ppod-label": Format(ppod_label.parse),
    "ppod-judge": Format(ppod_judge.parse),
    "table": Format(plain.parse),
}
"""Format names of `ppod-pair import`. A new format is a file with a function `parse`, and an entry here."""
