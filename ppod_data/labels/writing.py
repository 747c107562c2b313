"""Tables that come in pieces, and that are never replaced by others."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppod_data.errors import ConfigError
from ppod_data.format.sums import seal_file
from ppod_data.format.tables import table_writer
from ppod_data.storage.files import DataPath, publish_new, sha256_file, sync
from ppod_data.support.canonical_json import canonical_json

_METADATA = b"ppod"


def described(schema: Any, made: Mapping[str, Any]) -> Any:
    """The schema of a table whose metadata `ppod` says how it was made."""
    return schema.with_metadata({**schema.metadata, _METADATA: canonical_json(made).encode()})


def write_pieces(path: Path, schema: Any, pieces: Iterator[Any], made: Mapping[str, Any]) -> None:
    """Write the pieces of a table to the temporary file `path`."""
    schema = described(schema, made)
    with table_writer(path, schema) as writer:
        for piece in pieces:
            writer.write_table(piece.replace_schema_metadata(schema.metadata))


def publish_once(wanted: Sequence[tuple[Path, DataPath]]) -> None:
    """Give finished temporary files their names, and tables their seals.

    A file that is there already must hold the same bytes. Raises ConfigError otherwise, before any has its name. Of
    commands that write under one name at the same moment, the one whose first file is there first goes on; the other is
    refused.
    """
    for temporary, path in wanted:
        if path.exists():
            _check_same(temporary, path)
    for temporary, path in wanted:
        sync(temporary)
        if not publish_new(temporary, path):
            _check_same(temporary, path)
        if path.suffix == ".parquet":
            seal_file(path)


def _check_same(temporary: Path, path: DataPath) -> None:
    if sha256_file(path) != sha256_file(temporary):
        raise ConfigError(
            f"{path.parent.name}/{path.name} was made from other labels, or with other options: give another --name"
        )
