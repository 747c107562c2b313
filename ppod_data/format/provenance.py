"""How a table was made: a JSON object under the key `ppod` of its Parquet metadata.

Example:
    >>> metadata = with_provenance({}, {"seed": 0})
    >>> metadata
    {b'ppod': b'{"seed":0}'}
    >>> provenance_of(metadata, "pairs/a.parquet")
    {'seed': 0}
"""

from collections.abc import Mapping
from typing import Any

from ppod_data.errors import DamagedError
from ppod_data.storage.files import DataPath
from ppod_data.storage.json_reader import parse_json
from ppod_data.support.canonical_json import canonical_json

_KEY = b"ppod"


def with_provenance(metadata: Mapping[bytes, bytes] | None, made: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return `metadata` of a schema with `made` added, as canonical JSON."""
    return {**(metadata or {}), _KEY: canonical_json(made).encode()}


def provenance_of(metadata: Mapping[bytes, bytes] | None, where: DataPath | str) -> dict[str, Any]:
    """Return what `with_provenance` added to the metadata of a table; empty if there is nothing.

    Raises:
        DamagedError: the value is not a JSON object; names the table by `where`.
    """
    text = (metadata or {}).get(_KEY)
    if text is None:
        return {}
    try:
        value = parse_json(text)
    except ValueError as error:
        raise DamagedError(
            f"{where}: its metadata is not readable as JSON ({error}): get it again"
        ) from error
    if not isinstance(value, dict):
        raise DamagedError(f"{where}: its metadata is not a JSON object: get it again")
    return value
