"""The Parquet tables of a data set: their columns, and how to write and read them.

    table = read_table(root / "samples" / part_name(0), SAMPLES, ["prompt", "image"])

The same rows give the same bytes: no file depends on the time, the host or the path. Every page, the footer and
every column carry checksums, which are verified before the data is used. docs/formats.md explains every column.
"""

import io
import json
import re
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.format import checksums
from ppod_data.format.parquet_pages import PageError
from ppod_data.storage.files import DataPath, atomic_output, open_file
from ppod_data.storage.range_reader import fetch, retry_damaged
from ppod_data.storage.unreadable import raise_if_unreadable

_HUGGINGFACE = b"huggingface"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REPEATING = {
    *("prompt_id", "prompt", "traj_file", "scorer", "revision", "status", "source"),
    *("annotator", "dimension", "file", "license"),
}
_NEVER_NULL = {"scorer", "revision", "source", "license"}
"""Columns that are sorted, joined or counted as texts."""
_BATCH_ROWS = 1024
_FEW_ROWS = 10_000
_FREE_BYTES = 64 << 20
_MAX_EXPANSION = 50
"""A decoded table may take _FREE_BYTES plus _MAX_EXPANSION times the bytes of its file."""
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


def _schema(**columns: Any) -> Any:
    """Return a schema whose metadata declares its features to the `datasets` library, which then decodes images."""
    schema = pa.schema(list(columns.items()))
    features = {field.name: _feature(field.type) for field in schema}
    info = json.dumps({"info": {"features": features}})
    return schema.with_metadata({_HUGGINGFACE: info.encode()})


def _list_of(kind: Any) -> Any:
    """Return the list type with Parquet's own element name, so that a table reads back as written."""
    return pa.list_(pa.field("element", kind))


def _feature(kind: Any) -> dict[str, Any]:
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {pa.float32(): "float32", pa.float64(): "float64"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}


SAMPLES = _schema(
    sample_id=pa.string(),
    prompt_id=pa.string(),
    prompt=pa.string(),
    image_index=pa.int32(),
    seed=pa.int64(),
    image=_IMAGE,
    image_sha256=pa.string(),
    image_pixels_sha256=pa.string(),
    timesteps=_list_of(pa.int32()),
    stochastic=_list_of(pa.bool_()),
    log_probs=_list_of(pa.float64()),
    step_index=_list_of(pa.int32()),
    traj_file=pa.string(),
    traj_offset=pa.int64(),
    traj_nbytes=pa.int64(),
    traj_sha256=pa.string(),
)
"""One row a sample: samples/000012.parquet."""

CHECKED_SAMPLES = _schema(**{field.name: field.type for field in SAMPLES}, flagged=pa.bool_())
"""SAMPLES plus the verdict of a safety checker."""

SCORES = _schema(
    sample_id=pa.string(),
    score=pa.float64(),
    scorer=pa.string(),
    revision=pa.string(),
    image_pixels_sha256=pa.string(),
    status=pa.string(),
)
"""One row a sample: scores/<name>/000012.parquet."""

LOG_PROBS = _schema(sample_id=pa.string(), log_probs=_list_of(pa.float64()))
"""One row a sample: log_probs/<policy>/000012.parquet."""

PAIRS = _schema(
    pair_id=pa.string(),
    prompt_id=pa.string(),
    chosen_id=pa.string(),
    rejected_id=pa.string(),
    label=pa.float32(),
    margin=pa.float64(),
    source=pa.string(),
    votes=pa.int32(),
)
"""One row a pair: pairs/<name>.parquet."""

LABELS = _schema(
    prompt_id=pa.string(),
    prompt=pa.string(),
    a_id=pa.string(),
    b_id=pa.string(),
    label=pa.float64(),
    votes=pa.int32(),
    annotator=pa.string(),
    dimension=pa.string(),
    source=pa.string(),
    file=pa.string(),
    record=pa.int64(),
    license=pa.string(),
)
"""One row a comparison of two images by people: labels/<name>.parquet."""


def part_name(shard: int) -> str:
    """Return the file name of a shard's part of a table: "000012.parquet"."""
    return f"{shard:06d}.parquet"


def shard_of(name: str) -> int | None:
    """Return the shard whose part has exactly this file name, or None for any other file, such as a copy of a part."""
    number = name.removesuffix(".parquet")
    shard = int(number) if number.isascii() and number.isdigit() and len(number) < 16 else -1
    return shard if shard >= 0 and part_name(shard) == name else None


def is_name(name: str) -> bool:
    """Return true if `name` is a valid file name on every system."""
    return _NAME.fullmatch(name) is not None and len(name) <= 100


def check_name(name: str, what: str) -> str:
    """Return `name` if it is a valid file name on every system. Raises `ConfigError` otherwise; `what` describes it."""
    if not is_name(name):
        raise ConfigError(
            f"{name!r} cannot name {what}: use up to 100 letters, digits, dots, dashes and underscores, "
            "a letter or digit first"
        )
    return name


def is_table(path: DataPath) -> bool:
    """Return true for the file name of a table, NAME.parquet. Files of other names are skipped everywhere."""
    return path.suffix == ".parquet" and is_name(path.name.removesuffix(".parquet"))


def write_table(path: DataPath, table: Any, row_group_size: int = 10_000) -> None:
    """Write an Arrow table to `path` atomically, replacing an existing file."""
    with atomic_output(path) as temporary:
        encode_table(temporary, table, row_group_size)


def encode_table(path: Path, table: Any, row_group_size: int) -> None:
    """Write an Arrow table to the Parquet file `path`, with page checksums; neither atomic nor durable.

    Images are stored uncompressed; other columns are compressed. `row_group_size` is a number of rows.
    """
    with table_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=row_group_size)


@contextmanager
def table_writer(path: Path, schema: Any, *, store_schema: bool = True) -> Iterator[Any]:
    """Yield a `pyarrow.parquet.ParquetWriter` with the settings of `encode_table`, for a table written in pieces.

    The same rows in the same pieces give the same bytes.

    Args:
        path: the file.
        schema: the table's schema.
        store_schema: false for a table whose metadata is known only at the end. A reader takes the metadata of
            the stored Arrow schema, or else what `add_key_value_metadata` added.
    """
    leaves = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
    plain = [leaf for leaf in leaves if not leaf.startswith("image.")]
    with path.open("w+b") as file:
        with pq.ParquetWriter(
            file,
            schema,
            store_schema=store_schema,
            version="2.6",
            compression={leaf: "zstd" if leaf in plain else "none" for leaf in leaves},
            use_dictionary=[leaf for leaf in plain if leaf in _REPEATING],
            write_statistics=plain,  # statistics of an image would repeat it, outside the checksum
            write_page_checksum=True,
        ) as writer:
            yield writer
            writer.add_key_value_metadata({checksums.KEY: checksums.placeholder(len(leaves))})
        checksums.fill_in(file, pq.read_metadata(file))


def _leaves(name: str, kind: Any) -> list[str]:
    """Return the Parquet column paths of one Arrow column."""
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{name}.{field.name}", field.type)]
    return [f"{name}.list.element"] if pa.types.is_list(kind) else [name]


def read_table(path: DataPath, schema: Any, columns: Sequence[str] | None = None) -> Any:
    """Return the table in `path` with its metadata: all of the schema's columns, or `columns` in that order.

    Only the pages of these columns are read.

    Raises:
        ConfigError: the schema has no such column.
        DamagedError: the file is missing, truncated, or fails a checksum, has columns of another type, or would
            need far more memory than its size explains.
        OSError: the system does not let this process read the file, as `raise_if_unreadable` defines.
    """
    names = list(schema.names if columns is None else columns)
    if unknown := [name for name in names if name not in schema.names]:
        raise ConfigError(f"no column {unknown[0]!r} in this table: it has {', '.join(schema.names)}")
    table = retry_damaged(path, lambda: _read_checked(path, schema, names))
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != checksums.KEY}
    if columns is not None:
        metadata.pop(_HUGGINGFACE, None)  # it describes columns that are left out
    return table.select(names).replace_schema_metadata(metadata)


def _read_checked(path: DataPath, schema: Any, names: Sequence[str]) -> Any:
    with _naming_the_file(path), open_file(path) as raw, _checked(path, raw, schema, names) as file:
        if not names:
            return file.read(columns=[])
        stored = file.schema_arrow  # a property that is rebuilt on every access
        empty = pa.schema([stored.field(name) for name in names]).empty_table()
        batches = list(_batches(raw, file, names))
        table = pa.Table.from_batches(batches) if batches else empty
        return table.replace_schema_metadata(stored.metadata)


def iter_table(path: DataPath, schema: Any, columns: Sequence[str]) -> Iterator[Any]:
    """Yield the columns as tables of some rows each, all verified before the first. Errors as of `read_table`."""
    with _naming_the_file(path), open_file(path) as raw, _checked(path, raw, schema, columns) as file:
        for batch in _batches(raw, file, columns):
            yield pa.Table.from_batches([batch])


def iter_rows(
    path: DataPath, schema: Any, columns: Sequence[str], key: str, wanted: Set[str]
) -> Iterator[dict[str, Any]]:
    """Yield the rows whose text in column `key` is in `wanted`, without reading row groups that hold none.

    Only the bytes of `key` are verified; the caller verifies the other columns. Errors as of `read_table`.
    """
    with _naming_the_file(path), open_file(path) as raw, _checked(path, raw, schema, [key]) as file:
        _check_columns(schema, columns, file.schema_arrow)
        names = pa.array(sorted(wanted), pa.string())
        for group in range(file.num_row_groups):  # a purge moves samples to other groups, so search all keys
            matches = [pc.is_in(batch[key], names) for batch in _batches(raw, file, [key], [group])]
            if not any(pc.any(mask).as_py() for mask in matches):
                continue
            for batch in _batches(raw, file, list(dict.fromkeys([key, *columns])), [group]):
                for row in pc.filter(batch, pc.is_in(batch[key], names)).to_pylist():
                    yield {name: row[name] for name in columns}


@contextmanager
def _naming_the_file(path: DataPath) -> Iterator[None]:
    """Convert errors while a table is read to a DamagedError that names the file, unless the system refused to read."""
    try:
        yield
    except (MemoryError, PpodError):
        raise
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: the file is missing: get this part again") from error
    except _NotOursError as error:
        raise DamagedError(f"{path}: {error}: ppod did not write this table") from error
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        raise_if_unreadable(error, path)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DamagedError(
            f"{path}: damaged, {reason}: remove the file and generate or get this part again"
        ) from error


def check_table(path: DataPath) -> bool:
    """Verify every byte of a table without decoding. Return false for a table without checksums.

    Raises `DamagedError` if the bytes differ from those written, and `OSError` as `read_table` does.
    """
    return retry_damaged(path, lambda: _check(path))


def _check(path: DataPath) -> bool:
    try:
        with open_file(path) as file:
            digests = checksums.check_footer(file)
            if digests is not None:
                metadata = pq.read_metadata(path if isinstance(path, Path) else file)
                checksums.check_columns(file, metadata, digests, metadata.schema.to_arrow_schema().names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise_if_unreadable(error, path)
        raise DamagedError(f"{path}: damaged, {error}: generate or get this part again") from error
    return digests is not None


class _NotOursError(Exception):
    """A Parquet file with other columns, or of a shape that no ppod table has."""


@contextmanager
def _checked(path: DataPath, raw: io.BufferedReader, schema: Any, names: Sequence[str]) -> Iterator[Any]:
    """Yield the Parquet file after verifying the bytes of these columns."""
    digests = checksums.check_footer(raw)
    size = raw.seek(0, 2)
    with pq.ParquetFile(path if isinstance(path, Path) else raw, page_checksum_verification=True) as file:
        _check_columns(schema, names, file.schema_arrow)
        if file.metadata.num_rows > size:  # the ids alone take more than a byte a row
            raise _NotOursError(f"{file.metadata.num_rows} rows in {size} bytes")
        if not isinstance(path, Path):
            fetch(raw, checksums.column_ranges(file.metadata, names))
        if digests is not None:
            checksums.check_columns(raw, file.metadata, digests, names)
        yield file


def _most_bytes(size: int) -> int:
    """Return the bytes of values that a file of `size` bytes can explain."""
    return _FREE_BYTES + _MAX_EXPANSION * size


def _batch_rows(raw: io.BufferedReader, file: Any, names: Sequence[str], groups: Sequence[int]) -> int:
    """Return the number of rows to decode at once, from the page headers alone."""
    size = raw.seek(0, 2)
    try:
        nbytes, longest = checksums.column_expansion(raw, file.metadata, names, groups, _most_bytes(size))
    except PageError as error:
        raise ValueError(str(error)) from error
    if nbytes > _most_bytes(size):
        raise _NotOursError(f"{nbytes >> 20} MiB of values in {size} bytes")
    return max(1, min(_BATCH_ROWS, _FREE_BYTES // max(longest, 1)))


def _batches(
    raw: io.BufferedReader, file: Any, names: Sequence[str], groups: Sequence[int] | None = None
) -> Iterator[Any]:
    """Yield the columns in batches.

    Values that exceed what the file's size explains are rejected before they fill memory.
    """
    groups = range(file.num_row_groups) if groups is None else groups
    rows, most, held = _batch_rows(raw, file, names, groups), _most_bytes(raw.seek(0, 2)), 0
    missing = sum(file.metadata.row_group(group).num_rows for group in groups)
    many = file.metadata.num_rows > _FEW_ROWS  # below this, threads cost more time than they save
    for batch in file.iter_batches(rows, row_groups=groups, columns=list(names), use_threads=many):
        held += batch.nbytes
        if held > most:
            raise _NotOursError(f"more than {held >> 20} MiB of values in {raw.seek(0, 2)} bytes")
        batch.validate(full=True)  # detects texts that are not UTF-8
        if nulls := [name for name in names if name in _NEVER_NULL and batch[name].null_count]:
            raise _NotOursError(f"the column {nulls[0]!r} holds nulls")
        missing -= batch.num_rows
        yield batch
    if missing:  # a damaged page header can end a column without an error
        raise ValueError(f"{missing} rows are missing")


def _check_columns(schema: Any, names: Sequence[str], stored: Any) -> None:
    for name in names:
        if name not in stored.names:
            raise _NotOursError(f"the column {name!r} is missing")
        if stored.names.count(name) > 1:
            raise _NotOursError(f"the column {name!r} is repeated")
        if stored.field(name).type != schema.field(name).type:
            raise _NotOursError(
                f"the column {name!r} holds {stored.field(name).type}, not {schema.field(name).type}"
            )
