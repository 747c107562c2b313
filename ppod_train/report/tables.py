"""Nested settings as names and texts."""

from collections.abc import Mapping
from typing import Any

from ppod_data.support.formatting import UNKNOWN

_MAX_ITEMS = 24
"""Maximum number of list items in a table, because prompts may number thousands."""


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to "outer.inner" → text."""
    flat: dict[str, str] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            left_out = len(value) - _MAX_ITEMS
            items = [str(item) for item in value[:_MAX_ITEMS]] + [f"and {left_out} more"] * (left_out > 0)
            flat[prefix + key] = ", ".join(items)
        else:
            flat[prefix + key] = UNKNOWN if value is None else str(value)
    return flat
