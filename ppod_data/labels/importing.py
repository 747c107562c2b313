"""Import of people's labels on a data set's samples: labels/<name>.parquet and the pairs derived from them.

All input is read and checked before a file is written to the data set. Every answer becomes a label, a tie, a reject
with a reason, or is counted as skipped.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.format.provenance import with_provenance
from ppod_data.format.tables import LABELS, PAIRS, check_name, table_writer
from ppod_data.format.write_once import NewFile, publish_once, write_pieces
from ppod_data.labels.answers import TIE, Bad, BadRowError, Comparison, Rating, Record, Skipped, each
from ppod_data.labels.files.records import (
    is_parquet,
    read_tables,
    table_records,
)
from ppod_data.labels.formats.by_name import FORMATS, Format
from ppod_data.labels.matching import ForeignImageError, SampleIndex
from ppod_data.labels.rows import Annotators, Block, Ratings, Row, match_answer, match_many
from ppod_data.labels.secret import keep_salt, read_salt, secret_of
from ppod_data.labels.stored import choose_dimension
from ppod_data.labels.votes import Votes, first_answers, merge, pair_tables
from ppod_data.storage.files import sha256_file, temporary_beside
from ppod_data.storage.real_folders import refuse_linked_folders
from ppod_data.support.progress import SILENT, Progress

_BATCH = 16_384
_FOREIGN = (
    "none of the images is a sample of this data set; to make a data set of these images, give a new folder, and with "
    "--model the model to train"
)


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """Result of an import.

    An answer is one comparison or rating by one source. For comparisons num_answers = num_preferences + num_ties +
    num_rejected + num_skipped; for ratings num_answers = num_ratings + num_rejected + num_skipped.
    """

    num_records: int
    num_answers: int
    num_preferences: int
    """Labels other than ties."""
    num_ties: int
    num_ratings: int
    num_ratings_alone: int
    """Ratings without another rating to compare with."""
    num_rejected: int
    skipped: dict[str, int]
    """Number of answers that were not meant to be labels, by reason."""
    num_pairs: int
    num_undecided: int
    """Pairs of images with equal votes; left out of the pairs unless ties are kept."""
    num_contradictory: int
    """Pairs of images with votes for each image."""
    dimension: str

    @property
    def num_skipped(self) -> int:
        """Return the total number of skipped answers."""
        return sum(self.skipped.values())


@dataclass
class _ImportState:
    """Labels read so far; for the pairs, those of every dimension as numbers."""

    index: SampleIndex
    people: Annotators
    write: Callable[[Block], None]
    rejects: "_Rejects"
    ratings: Ratings = field(default_factory=Ratings)
    skipped: Counter[str] = field(default_factory=Counter)
    by_dimension: dict[str, list[tuple[Votes, NDArray[np.int64]]]] = field(default_factory=dict)
    """Votes with the number of each label's annotator, -1 if unnamed."""
    people_seen: dict[str, int] = field(default_factory=dict)
    """Number of each annotator's hash."""
    num_records: int = 0
    num_answers: int = 0
    num_labels: int = 0
    num_ties: int = 0

    def add(self, block: Block) -> None:
        self.write(block)
        self.num_labels += len(block.record)
        self.num_ties += int((block.votes.label == TIE).sum())
        numbers = self._numbered(block.annotator)
        codes = block.dimension.dictionary_encode()
        for code, dimension in enumerate(codes.dictionary.to_pylist()):
            mask = np.asarray(codes.indices) == code
            part = block.votes if mask.all() else _filter(block.votes, mask)
            self.by_dimension.setdefault(dimension, []).append((part, numbers[mask]))

    def _numbered(self, annotator: Any) -> NDArray[np.int64]:
        codes = annotator.dictionary_encode()
        seen = self.people_seen
        numbers = [seen.setdefault(name, len(seen)) for name in codes.dictionary.to_pylist()]
        positions = np.asarray(codes.indices.fill_null(len(numbers)))
        row_numbers: NDArray[np.int64] = np.array([*numbers, -1], np.int64)[positions]
        return row_numbers


def _filter(votes: Votes, mask: Any) -> Votes:
    return Votes(a=votes.a[mask], b=votes.b[mask], label=votes.label[mask], votes=votes.votes[mask])


class _Rejects:
    """Answers that cannot be labels, as JSON lines with file, record and reason, without personal data."""

    def __init__(self, path: Path) -> None:
        self._out = path.open("w", encoding="utf-8")
        self.first: str | None = None
        self.columns = ""
        self.count = self.foreign = 0

    def add(self, record: Record, reason: str, *, foreign: bool = False) -> None:
        self.count += 1
        self.foreign += foreign
        if self.first is None:
            self.first = f"{record.file}:{record.number}: {reason}"
            self.columns = f" ({record.columns})" if record.columns else ""
        line = {"file": record.file, "record": record.number, "reason": reason}
        self._out.write(json.dumps(line) + "\n")  # ASCII, because a reason may quote invalid Unicode

    def close(self) -> None:
        self._out.close()


def import_labels(
    dataset: Dataset,
    path: Path,
    *,
    format: str,
    name: str,
    license: str = "unknown",
    dimension: str | None = None,
    keep_ties: bool = False,
    skip_bad: bool = False,
    progress: Progress = SILENT,
) -> ImportSummary:
    """Write `labels/<name>.parquet` and `pairs/<name>.parquet` from the label file or folder `path`.

    Args:
        format: one of FORMATS.
        license: license of the labels that name none.
        dimension: the dimension whose labels become pairs; by default "overall" or the only dimension.
        keep_ties: include ties in the pairs as labels of 0.5; otherwise no pair contains them.
        skip_bad: write answers that cannot be labels to `labels/<name>.rejects.jsonl` instead of stopping.
        progress: shows the number of records read.

    Raises:
        ConfigError: an answer that cannot be a label, images that are not samples, an unknown format or dimension,
            or a table of this name from other labels. No file is written.
        DamagedError: a file that cannot be read to its end.
    """
    if format not in FORMATS:
        raise ConfigError(f"format {format!r} is unknown: choose one of {', '.join(FORMATS)}")
    check_name(name, "a table of labels")
    refuse_linked_folders(dataset.root)
    files = FORMATS[format].files(path)
    labels = dataset.root / "labels" / f"{name}.parquet"
    pairs = dataset.root / "pairs" / f"{name}.parquet"
    rejected = dataset.root / "labels" / f"{name}.rejects.jsonl"
    salt = read_salt(dataset)
    options = {
        "format": format,
        "files": {
            file.relative_to(path).as_posix() if path.is_dir() else file.name: sha256_file(file)
            for file in files
        },
        "fingerprint": dataset.spec.fingerprint,
        "license": license,
    }
    with contextlib.ExitStack() as stack:
        temporary = [stack.enter_context(temporary_beside(target)) for target in (labels, pairs, rejected)]
        index = SampleIndex.read(dataset)
        rejects = _Rejects(temporary[2])
        stack.callback(rejects.close)
        schema = LABELS.with_metadata(with_provenance(LABELS.metadata, options))
        with table_writer(temporary[0], schema) as writer:

            def write(block: Block) -> None:
                table = block.table(index, format, license)
                writer.write_table(table.replace_schema_metadata(schema.metadata))

            state = _ImportState(index, Annotators(secret_of(dataset, salt), format), write, rejects)
            for file in files:
                _check_shape(file, FORMATS[format], dataset)
                _read(file, FORMATS[format], state, progress)
            for source, rows in state.ratings.rows().items():
                for first in range(0, len(rows), _BATCH):
                    state.add(Block.of(rows[first : first + _BATCH], source))
        rejects.close()
        _raise_if_unusable(state, path, skip_bad)
        chosen = choose_dimension(sorted(state.by_dimension), dimension)
        summary = _write_pairs(temporary[1], state, chosen, keep_ties, f"labels:{name}", options)
        keep_salt(dataset, salt)
        wanted = [NewFile(temporary[0], labels, LABELS)]
        wanted += [NewFile(temporary[1], pairs, PAIRS)] if summary.num_pairs else []
        wanted += [NewFile(temporary[2], rejected)] if summary.num_rejected else []
        publish_once(wanted)
    return summary


def _check_shape(file: Path, format: Format, dataset: Dataset) -> None:
    if format.check_shape is None:
        return
    spec = dataset.spec
    counts = (
        [len(images) for images in spec.images]
        if spec.is_forward
        else [spec.num_images_per_prompt] * len(spec.prompts)
    )
    format.check_shape(format.records(file), counts, file.name)


def _read(file: Path, format: Format, state: _ImportState, progress: Progress) -> None:
    if not is_parquet(file):
        _read_records(file, format.records(file), file.parent, format, state, progress)
        return
    first = 1
    for table in read_tables(file):
        columns = format.columns(table) if format.columns else None
        if columns is not None:
            block, matched = match_many(columns, state.index, state.people, file.name, first)
            remaining = np.setdiff1d(np.arange(table.num_rows), matched, assume_unique=True)
            state.num_records += len(matched)
            state.num_answers += len(matched)
            if len(matched):
                state.add(block)
            numbers = remaining + first
            rest = table.take(pa.array(remaining))
        else:
            numbers, rest = np.arange(first, first + table.num_rows), table
        records = (
            replace(record, number=int(number))
            for number, record in zip(numbers, table_records(rest, file.name, 1), strict=True)
        )
        if len(numbers):
            _read_records(file, records, file.parent, format, state, SILENT)
        progress.status(f"{state.num_records:,} records read")
        first += table.num_rows


def _read_records(
    file: Path,
    records: Iterator[Record],
    folder: Path,
    format: Format,
    state: _ImportState,
    progress: Progress,
) -> None:
    rows: list[Row] = []
    for record in records:
        state.num_records += 1
        for answer in each(record, format.parse):
            _take(answer, record, folder, state, rows)
        if len(rows) >= _BATCH:
            state.add(Block.of(rows, file.name))
            rows = []
        if state.num_records % _BATCH == 0:
            progress.status(f"{state.num_records:,} records read")
    if rows:
        state.add(Block.of(rows, file.name))
    progress.status(f"{state.num_records:,} records read")


def _take(answer: Any, record: Record, folder: Path, state: _ImportState, rows: list[Row]) -> None:
    """Handle one answer: add a row, a rating or a reject, or count it."""
    state.num_answers += 1
    try:
        match answer:
            case Comparison():
                rows.append(match_answer(answer, record, state.index, folder, state.people))
            case Rating():
                state.ratings.add(answer, record, state.index, folder, state.people)
            case Skipped():
                state.skipped[answer.reason] += 1
            case Bad():
                state.rejects.add(record, answer.reason)
    except BadRowError as error:
        state.rejects.add(record, str(error), foreign=isinstance(error, ForeignImageError))


def _raise_if_unusable(state: _ImportState, path: Path, skip_bad: bool) -> None:
    rejects = state.rejects
    used = state.num_labels + state.ratings.num_ratings
    if not used and rejects.foreign and rejects.foreign == rejects.count:
        raise ConfigError(f"{path}: {rejects.count:,} answers were read, but {_FOREIGN}{rejects.columns}")
    if rejects.count and not skip_bad:
        more = f" (and {rejects.count - 1:,} more)" if rejects.count > 1 else ""
        raise ConfigError(
            f"{rejects.first}{rejects.columns}{more}: correct the file, or leave such rows out with --skip-bad"
        )
    if not state.num_labels:
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(state.skipped.items()))
        raise ConfigError(
            f"{path}: no labels: {state.num_records:,} records, {rejects.count:,} rejected"
            + (f" (first {rejects.first}{rejects.columns})" if rejects.first else "")
            + (f", {skipped}" if skipped else "")
            + ": check that --format is right"
        )


def _write_pairs(
    path: Path, state: _ImportState, dimension: str, keep_ties: bool, source: str, options: dict[str, Any]
) -> ImportSummary:
    parts = state.by_dimension[dimension]
    votes = Votes(
        a=np.concatenate([part.a for part, _ in parts]),
        b=np.concatenate([part.b for part, _ in parts]),
        label=np.concatenate([part.label for part, _ in parts]),
        votes=np.concatenate([part.votes for part, _ in parts]),
    )
    is_first = first_answers(votes, np.concatenate([numbers for _, numbers in parts]))
    merged = merge(votes if is_first.all() else _filter(votes, is_first), keep_ties=keep_ties)
    summary = ImportSummary(
        num_records=state.num_records,
        num_answers=state.num_answers,
        num_preferences=state.num_labels - state.num_ties,
        num_ties=state.num_ties,
        num_ratings=state.ratings.num_ratings,
        num_ratings_alone=state.ratings.num_alone,
        num_rejected=state.rejects.count,
        skipped=dict(sorted(state.skipped.items())),
        num_pairs=len(merged.chosen),
        num_undecided=merged.num_undecided,
        num_contradictory=merged.num_contradictory,
        dimension=dimension,
    )
    provenance = {
        **{"labels": source.partition(":")[2], "dimension": dimension, "keep_ties": keep_ties},
        **{key: options[key] for key in ("format", "fingerprint")},
        "counts": asdict(summary),
    }
    write_pieces(path, PAIRS, pair_tables(merged, state.index, source), provenance)
    return summary
