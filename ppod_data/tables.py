"""The Parquet tables of a data set: their columns, and how they are written and read.

Same rows, same bytes: nothing in a file depends on the time, the host or the path. Every page carries a
checksum, which is verified whenever the page is read. docs/formats.md explains every column.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ppod_data.errors import ConfigError, DamagedError
from ppod_data.files import atomic_output

_HUGGINGFACE = b"huggingface"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REPEATING = {
    *("prompt_id", "prompt", "traj_file", "scorer", "revision", "status", "source"),
    *("annotator", "dimension", "file", "license"),
}
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


def _schema(**columns: Any) -> Any:
    """A schema whose metadata tells the `datasets` library the features, so that it decodes the images."""
    schema = pa.schema(list(columns.items()))
    features = {field.name: _feature(field.type) for field in schema}
    info = json.dumps({"info": {"features": features}})
    return schema.with_metadata({_HUGGINGFACE: info.encode()})


def _list_of(kind: Any) -> Any:
    """The list type under the name that Parquet gives its elements, so that a table reads back as it was written."""
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
"""A row a sample: samples/000012.parquet."""

SCORES = _schema(
    sample_id=pa.string(),
    score=pa.float64(),
    scorer=pa.string(),
    revision=pa.string(),
    image_pixels_sha256=pa.string(),
    status=pa.string(),
)
"""A row a sample: scores/<name>/000012.parquet."""

LOG_PROBS = _schema(sample_id=pa.string(), log_probs=_list_of(pa.float64()))
"""A row a sample: log_probs/<policy>/000012.parquet."""

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
"""A row a pair: pairs/<name>.parquet."""

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
"""A row a comparison of two images by people: labels/<name>.parquet."""


def part_name(shard: int) -> str:
    """The file name of a shard's part of a table: "000012.parquet"."""
    return f"{shard:06d}.parquet"


def check_name(name: str, what: str) -> str:
    """`name`, if it can be a file's name anywhere, else `ConfigError`. `what` says whose name it is."""
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise ConfigError(
            f"{name!r} cannot name {what}: use up to 100 letters, digits, dots, dashes and underscores, "
            "a letter or digit first"
        )
    return name


def write_table(path: Path, table: Any, row_group_size: int = 10_000) -> None:
    """Write an Arrow table to `path`, replacing what is there; it appears whole or not at all."""
    with atomic_output(path) as temporary:
        encode_table(temporary, table, row_group_size)


def encode_table(path: Path, table: Any, row_group_size: int) -> None:
    """Write an Arrow table to the Parquet file `path`, page checksums included; in place and not durably.

    Images are stored as they are; other columns are compressed. `row_group_size` is a number of rows.
    """
    pq.write_table(table, path, row_group_size=row_group_size, **_encoding(table.schema))


def table_writer(path: Path, schema: Any) -> Any:
    """A `pyarrow.parquet.ParquetWriter` with the settings of `encode_table`, for a table that comes in pieces.

    The same rows in the same pieces give the same bytes.
    """
    return pq.ParquetWriter(path, schema, **_encoding(schema))


def _encoding(schema: Any) -> dict[str, Any]:
    leaves = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
    plain = [leaf for leaf in leaves if not leaf.startswith("image.")]
    return {
        "version": "2.6",
        "compression": {leaf: "zstd" if leaf in plain else "none" for leaf in leaves},
        "use_dictionary": [leaf for leaf in plain if leaf in _REPEATING],
        "write_statistics": plain,  # of an image they would repeat the image, outside the checksum
        "write_page_checksum": True,
    }


def _leaves(name: str, kind: Any) -> list[str]:
    """The Parquet column paths of one Arrow column."""
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{name}.{field.name}", field.type)]
    return [f"{name}.list.element"] if pa.types.is_list(kind) else [name]


def read_table(path: Path, schema: Any, columns: Sequence[str] | None = None) -> Any:
    """The table in `path`: all of the schema's columns, or those asked for in their order; and its metadata.

    Only the pages of these columns are read. Raises `ConfigError` for a column that the schema does not have,
    and `DamagedError` for a file that is missing, cut, or fails a checksum, and for columns of another type.
    """
    names = list(schema.names if columns is None else columns)
    if unknown := [name for name in names if name not in schema.names]:
        raise ConfigError(f"no column {unknown[0]!r} in this table: it has {', '.join(schema.names)}")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_columns(path, schema, names, file.schema_arrow)
            table = file.read(columns=names)
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: the file is missing: get this part again") from error
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DamagedError(
            f"{path}: damaged, {reason}: remove the file and make or get this part again"
        ) from error
    metadata = dict(table.schema.metadata or {})
    if columns is not None:
        metadata.pop(_HUGGINGFACE, None)  # it describes columns that are not here
    return table.select(names).replace_schema_metadata(metadata)


def _check_columns(path: Path, schema: Any, names: Sequence[str], found: Any) -> None:
    for name in names:
        if name not in found.names:
            raise DamagedError(f"{path}: the column {name!r} is missing: it is not a table that ppod wrote")
        if found.field(name).type != schema.field(name).type:
            raise DamagedError(
                f"{path}: the column {name!r} holds {found.field(name).type}, not {schema.field(name).type}: "
                "it is not a table that ppod wrote"
            )
