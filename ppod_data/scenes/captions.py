"""The grammar of prompts about scenes: their facts (`Facts`) and their wording.

    prompt  = subject [place]
    subject = ("a" | "an" | "one" | "two" … "five") [colour ["colored"]] animal      colour, count, location
            | ("a" | "an") animal "and" ("a" | "an") animal                          composition
    place   = "in the park" | "on the moon" | "on the beach"

Case is ignored, and a final full stop is allowed. Imports no torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from ppod_data.errors import ConfigError

ANIMALS: tuple[str, ...] = ("rabbit", "wolf", "cat", "dog", "bird", "pig")
COLOURS: tuple[str, ...] = ("green", "red", "blue", "yellow", "purple")
PLACES: tuple[str, ...] = ("plain", "park", "moon", "beach")
COUNT_WORDS: tuple[str, ...] = ("one", "two", "three", "four", "five")
PLACE_PHRASES: dict[str, str] = {"park": "in the park", "moon": "on the moon", "beach": "on the beach"}
KINDS: tuple[str, ...] = ("colour", "count", "composition", "location")
PAPER_PROMPTS: tuple[str, ...] = (
    "A green colored rabbit",
    "Four wolves in the park",
    "A cat and a dog",
    "A dog on the moon",
)

_EXAMPLES = "write 'a red cat', 'four wolves in the park' or 'a cat and a dog'"
_PLACES = ", ".join(PLACE_PHRASES.values())
GRAMMAR = f"{_EXAMPLES}, of {', '.join(ANIMALS)}; {', '.join(COLOURS)}; one to five; {_PLACES}"
_SHOWN = 40  # a reason stored beside a score has at most 200 letters
_PLURALS: dict[str, str] = {a: "wolves" if a == "wolf" else f"{a}s" for a in ANIMALS}
_SINGULARS: dict[str, str] = {plural: animal for animal, plural in _PLURALS.items()}
_ALTERNATIVES = "|".join([*_PLURALS.values(), *ANIMALS])
_PLACE = rf"(?:\s+(?P<place>{'|'.join(PLACE_PHRASES.values())}))?\s*\.?"
_ONE_KIND = re.compile(
    rf"(?P<count>an?|{'|'.join(COUNT_WORDS)})(?:\s+(?P<colour>{'|'.join(COLOURS)})(?:[ -]colou?red)?)?"
    rf"\s+(?P<animal>{_ALTERNATIVES}){_PLACE}"
)
_TWO_KINDS = re.compile(
    rf"an?\s+(?P<first>{'|'.join(ANIMALS)})\s+and\s+an?\s+(?P<second>{'|'.join(ANIMALS)}){_PLACE}"
)


@dataclass(frozen=True)
class Facts:
    """The facts that a prompt states about an image; `None` for facts that it does not state.

    animals: the kinds named, one or two of `ANIMALS`, in the order of the prompt.
    count:   animals in the image, 1 to 5 (1 for "a dog", 2 for a composition).
    colour:  one of `COLOURS`, or None: an unnamed colour is not a fact.
    place:   one of `PLACES` without "plain", or None: an unnamed place is not a fact.
    """

    animals: tuple[str, ...]
    count: int
    colour: str | None = None
    place: str | None = None

    @property
    def kind(self) -> str:
        """Return one of `KINDS`: composition, else count (above one), else colour, else location."""
        if len(self.animals) > 1:
            return "composition"
        if self.count > 1:
            return "count"
        return "colour" if self.colour is not None else "location"


def caption(facts: Facts, colored: bool = False) -> str:
    """Return the lower-case prompt that states `facts`; `colored` writes "a green colored rabbit"."""
    if len(facts.animals) > 1:
        words = " and ".join(f"a {animal}" for animal in facts.animals)
    else:
        animal = facts.animals[0] if facts.count == 1 else _PLURALS[facts.animals[0]]
        number = "a" if facts.count == 1 else COUNT_WORDS[facts.count - 1]
        colour = "" if facts.colour is None else f"{facts.colour} {'colored ' if colored else ''}"
        words = f"{number} {colour}{animal}"
    return words if facts.place in (None, "plain") else f"{words} {PLACE_PHRASES[str(facts.place)]}"


def parse(prompt: str) -> Facts:
    """Return the facts that `prompt` names, in any case. Raises `ConfigError` for a prompt outside the grammar."""
    text = " ".join(prompt.lower().split())
    if match := _TWO_KINDS.fullmatch(text):
        first, second = match["first"], match["second"]
        if first != second:
            return Facts((first, second), 2, None, _place(match["place"]))
    elif match := _ONE_KIND.fullmatch(text):
        count = 1 if match["count"] in ("a", "an") else COUNT_WORDS.index(match["count"]) + 1
        plural = match["animal"] in _SINGULARS
        if plural == (count > 1):
            animal = _SINGULARS.get(match["animal"], match["animal"])
            return Facts((animal,), count, match["colour"], _place(match["place"]))
    short = prompt if len(prompt) <= _SHOWN else prompt[: _SHOWN - 1] + "…"
    raise ConfigError(
        f"the scenes scorers cannot read the prompt {short!r}: {_EXAMPLES}; docs/prompts.md lists all words"
    )


def unreadable(prompts: Sequence[str]) -> list[str]:
    """Return the prompts that `parse` rejects."""
    refused = []
    for prompt in prompts:
        try:
            parse(prompt)
        except ConfigError:
            refused.append(prompt)
    return refused


def all_prompts(kind: str) -> list[str]:
    """Return every prompt of one of the paper's four kinds, in a fixed order.

    colour "a green colored rabbit" (30), count "four wolves" and "four wolves in the park" (96), composition "a
    cat and a dog" (30, both orders), location "a dog on the moon" (18).
    """
    if kind == "colour":
        return [caption(Facts((a,), 1, c), colored=True) for a in ANIMALS for c in COLOURS]
    if kind == "count":
        places = (None, *PLACE_PHRASES)
        return [caption(Facts((a,), n, None, p)) for a in ANIMALS for n in range(2, 6) for p in places]
    if kind == "composition":
        return [caption(Facts(pair, 2)) for pair in permutations(ANIMALS, 2)]
    if kind == "location":
        return [caption(Facts((a,), 1, None, p)) for a in ANIMALS for p in PLACE_PHRASES]
    raise ConfigError(f"unknown kind of prompt {kind!r}: choose one of {', '.join(KINDS)}")


def _place(phrase: str | None) -> str | None:
    return None if phrase is None else phrase.split()[-1]
