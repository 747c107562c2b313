"""Files of a data set that are written once: the same file again changes nothing, and another one is refused."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppod_data.errors import ConfigError
from ppod_data.format.provenance import provenance_of, with_provenance
from ppod_data.format.sums import seal_file
from ppod_data.format.tables import read_table, table_writer
from ppod_data.storage.files import DataPath, publish_new, sha256_file, sync


@dataclass(frozen=True)
class NewFile:
    """A finished temporary file and its name to be."""

    temporary: Path
    path: DataPath
    schema: Any = None
    """Of a table, which gets a seal; None for a file that is not a table."""


def write_pieces(path: Path, schema: Any, pieces: Iterator[Any], made: Mapping[str, Any]) -> None:
    """Write the pieces of a table to the temporary file `path`, with `made` as its provenance."""
    schema = schema.with_metadata(with_provenance(schema.metadata, made))
    with table_writer(path, schema) as writer:
        for piece in pieces:
            writer.write_table(piece.replace_schema_metadata(schema.metadata))


def publish_once(files: Sequence[NewFile]) -> None:
    """Give finished temporary files their names, and tables their seals.

    An existing file must have the same content. Of concurrent commands that write under one name, the one whose first
    file appears first succeeds, and the other is refused.

    Raises:
        ConfigError: a file exists with other content. No file has its name then, unless a concurrent command wrote it.
    """
    for file in files:
        if file.path.exists():
            _check_same(file, suggest=len(files) == 1)
    for file in files:
        sync(file.temporary)
        if not publish_new(file.temporary, file.path):
            _check_same(file, suggest=len(files) == 1)
        if file.schema is not None:
            seal_file(file.path)


def _check_same(file: NewFile, *, suggest: bool) -> None:
    """Raise ConfigError unless both files hold the same; Parquet writers of two versions may store it differently."""
    if sha256_file(file.path) == sha256_file(file.temporary) or _same_table(file):
        return
    another = "give another --name" + (f", such as --name {_free_name(file.path)}" if suggest else "")
    raise ConfigError(
        f"{file.path.parent.name}/{file.path.name} was made {_difference(file)}: a table is never replaced, {another}"
    )


def _same_table(file: NewFile) -> bool:
    if file.schema is None:
        return False
    new, old = (read_table(path, file.schema, []).schema.metadata for path in (file.temporary, file.path))
    return new == old and all(
        read_table(file.temporary, file.schema, [name]).equals(read_table(file.path, file.schema, [name]))
        for name in file.schema.names
    )


def _difference(file: NewFile) -> str:
    """Name the options in which two tables differ."""
    options: list[str] = []
    if file.schema is not None:
        new, old = (
            provenance_of(read_table(path, file.schema, []).schema.metadata, path)
            for path in (file.temporary, file.path)
        )
        for key in sorted({*new, *old} - {"counts"}):
            ours, theirs = new.get(key), old.get(key)
            if isinstance(ours, dict) or isinstance(theirs, dict):
                options += [f"other {key}"] if ours != theirs else []
            elif ours != theirs:
                options.append(f"{key} {theirs!r}, not {ours!r}")
    return f"with {'; '.join(options)}" if options else "from other scores, labels or images"


def _free_name(path: DataPath) -> str:
    """Return a name for a table beside the one at `path`."""
    stem = path.name.removesuffix(".parquet")
    number = 2
    while path.with_name(f"{stem}-{number}.parquet").exists():
        number += 1
    return f"{stem}-{number}"
