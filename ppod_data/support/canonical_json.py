"""Canonical JSON, the input of every fingerprint."""

import json
from typing import Any


def canonical_json(value: Any) -> str:
    """The one JSON text of a plain value: sorted keys, no spaces, letters unescaped, no NaN or infinity.

    Raises `ValueError` for NaN and infinity, `TypeError` for what JSON does not know.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
