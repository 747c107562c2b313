"""Texts in CSV files that a spreadsheet must not take for formulas: a quotation mark before them makes them texts."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a cell starts that some spreadsheet computes; the last four are full-width."""
_MARK = "'"


def guarded(text: str) -> str:
    """Return the text of a cell, which a spreadsheet shows and does not compute."""
    return _MARK + text if text.lstrip().startswith(_FORMULA) or text.startswith(_FORMULA) else text


def unguarded(text: str) -> str:
    """Return the text that `guarded` was given."""
    rest = text.removeprefix(_MARK)
    return rest if guarded(rest) == text else text
