"""Texts in CSV files that a spreadsheet must not compute as formulas; a leading quotation mark makes them texts."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters of cells that some spreadsheet computes; the last four are full-width."""
_MARK = "'"


def guarded(text: str) -> str:
    """Return the text of a cell that a spreadsheet displays and does not compute."""
    return _MARK + text if text.lstrip().startswith(_FORMULA) or text.startswith(_FORMULA) else text


def unguarded(text: str) -> str:
    """Return the original of a text from `guarded`."""
    rest = text.removeprefix(_MARK)
    return rest if guarded(rest) == text else text
