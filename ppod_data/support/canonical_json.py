"""Canonical JSON, the input of every fingerprint."""

import json
from typing import Any


def canonical_json(value: Any) -> str:
    """Return the canonical JSON text of a plain value: sorted keys, no spaces, letters unescaped.

    Raises:
        ValueError: the value holds NaN or infinity.
        TypeError: the value holds a type that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
