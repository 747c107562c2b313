"""The text that a prompt quotes, and how much of it appears in another text.

quoted('a sign that says "Open 24h"')  # ['Open 24h']
"""

import re
import unicodedata

_QUOTED = re.compile(
    r"""(?<!\w)"([^"]*)"(?!\w)
    | [“„]([^“”]*)[“”]
    | «([^«»]*)» | 「([^「」]*)」 | 『([^『』]*)』
    | ‘((?:[^‘’]|(?<=\w)’(?=\w))*)’(?!\w)
    | (?<!\w)'((?:[^']|(?<=\w)'(?=\w))*)'(?!\w)""",
    re.VERBOSE,
)
"""Quotation marks in pairs. Apostrophes inside a word and inch signs after a digit are none."""


def quoted(prompt: str) -> list[str]:
    """Return the quoted texts of a prompt in their order, without those that hold only spaces."""
    texts = (next(filter(None, match.groups()), "") for match in _QUOTED.finditer(prompt))
    return [text for text in texts if normalised(text)]


def normalised(text: str) -> str:
    """Return a text in Unicode's NFKC form, with folded case and without spaces."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def share_read(texts: list[str], read: str) -> float:
    """Return how much of `texts` appears in `read`: 1 − Σ distance / Σ length, from 0 to 1.

    The distance of a text is the fewest insertions, deletions and substitutions that turn it into some part of
    `read`. Other words in `read` therefore cost nothing, and a text that is missing costs its whole length.
    """
    wanted = [normalised(text) for text in texts]
    found = normalised(read)
    missing = sum(_distance_to_a_part(text, found) for text in wanted)
    return 1 - missing / sum(map(len, wanted))


def _distance_to_a_part(text: str, whole: str) -> int:
    """Return the least edit distance between `text` and a substring of `whole` (Sellers, 1980)."""
    row = [0] * (len(whole) + 1)  # a part may start anywhere
    for length, character in enumerate(text, 1):
        diagonal, row[0] = row[0], length
        for end, other in enumerate(whole, 1):
            best = min(diagonal + (character != other), row[end] + 1, row[end - 1] + 1)
            diagonal, row[end] = row[end], best
    return min(row)  # and end anywhere
