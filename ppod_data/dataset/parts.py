"""The tables in a data set's folders: their names and parts."""

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ppod_data.errors import ConfigError
from ppod_data.format.provenance import provenance_of
from ppod_data.format.tables import check_name, is_name, is_table, shard_of
from ppod_data.storage.files import DataPath

_MADE_BY = {
    "pairs": "ppod-pair rank",
    "scores": "ppod-score",
    "labels": "ppod-pair import",
    "log_probs": "ppod-data log-probs",
}
"""The command that makes a table of each folder."""


def file_names(folder: DataPath) -> list[str]:
    """Return the names of the tables in `folder` that are one file, sorted. Invalid names are skipped."""
    paths = folder.glob("[!.]*.parquet")
    return sorted(path.name.removesuffix(".parquet") for path in paths if is_table(path))


def folder_names(folder: DataPath) -> list[str]:
    """Return the names of the folders in `folder` that hold a Parquet part, sorted. Invalid names are skipped."""
    if not isinstance(folder, Path):
        names = {path.parent.name for path in folder.glob("[!.]*/[!.]*.parquet") if _is_part(path.name)}
        return sorted(name for name in names if is_name(name))
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_name(entry.name) and _has_parts(entry))


def concatenate(tables: Sequence[Any], schema: Any, columns: Sequence[str]) -> Any:
    """Return some tables as one; an empty table with these columns if there is none."""
    if not tables:
        return pa.schema([schema.field(name) for name in columns]).empty_table()
    return pa.concat_tables(tables)


def check_known(name: str, table: str, known: Sequence[str], root: DataPath) -> None:
    """Raise ConfigError for a table that a data set does not have, naming those that it has."""
    check_name(name, table)
    if name not in known:
        there = f"give {' or '.join(known)}, or" if known else "there are none yet:"
        raise ConfigError(f"{root}: no {table} named {name!r}: {there} make them with {_MADE_BY[table]}")


def check_one_origin(root: DataPath, table: str, parts: Sequence[Any]) -> None:
    """Raise ConfigError if the parts of a table come from several reward models or policies."""
    origins: set[Any] = set()
    for part in parts:
        if "scorer" in part.schema.names:
            origins |= set(
                product(*(pc.unique(part[column]).to_pylist() for column in ("scorer", "revision")))
            )
        else:
            provenance = provenance_of(part.schema.metadata, root / table)
            origins.add((str(provenance.get("policy_fingerprint", "an unknown policy")),))
    if len(origins) > 1:
        two_origins = " and ".join(sorted(" ".join(map(str, origin)) for origin in origins)[:2])
        raise ConfigError(
            f"{root}/{table} mixes parts from {two_origins}: remove {root}/{table} and make the table again"
        )


def _has_parts(folder: os.DirEntry[str]) -> bool:
    """Return true if the folder holds a Parquet part. The listing stops at the first."""
    if not folder.is_dir():
        return False
    with os.scandir(folder.path) as entries:
        return any(_is_part(entry.name) for entry in entries)


def _is_part(name: str) -> bool:
    return shard_of(name) is not None
