"""Labels on images that are no samples of a data set, with their bytes: what a data set made for them reads."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from ppod_data.errors import ConfigError
from ppod_data.labels.answers import Answer, Bad, Comparison, Image, Rating, Record, each
from ppod_data.labels.formats import FORMATS
from ppod_data.labels.match import image_file
from ppod_data.labels.records import is_parquet, label_files, read_records, read_tables, table_records


def read_answers(path: Path, format: str) -> Iterator[tuple[Record, Answer]]:
    """Every answer in the label file or folder `path` with the record that it comes from, in their order.

    Images carry their bytes, undecoded and unchecked, where the record holds them or names a file beside the label
    file; others have their key alone. One record is in memory at a time, or one batch of a Parquet file.

    Raises ConfigError for an unknown format and a path without labels, DamagedError for a file that cannot be read.
    """
    if format not in FORMATS:
        raise ConfigError(f"format {format!r} is unknown: choose one of {', '.join(FORMATS)}")
    for file in label_files(path):
        for item in _records(file):
            record, bad = item if isinstance(item, tuple) else (item, None)
            for answer in [bad] if bad else each(record, FORMATS[format].parse):
                yield record, _with_bytes(answer, file.parent)


def _records(file: Path) -> Iterator[Record | tuple[Record, Bad]]:
    if not is_parquet(file):
        yield from read_records(file)
        return
    first = 1
    for table in read_tables(file):
        yield from table_records(table, file.name, first)
        first += table.num_rows


def _with_bytes(answer: Answer, folder: Path) -> Answer:
    if isinstance(answer, Comparison):
        return dataclasses.replace(answer, a=_loaded(answer.a, folder), b=_loaded(answer.b, folder))
    if isinstance(answer, Rating):
        return dataclasses.replace(answer, image=_loaded(answer.image, folder))
    return answer


def _loaded(image: Image, folder: Path) -> Image:
    if image.data is not None or image.key is None:
        return image
    path = image_file(image.key, folder)
    return image if path is None else Image(image.key, path.read_bytes())
