"""Prompts: how they are read, compared and named."""

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppod_data.errors import ConfigError
from ppod_data.format.prompt_files import read_prompt_file

_SHOWN_REPEATS = 8
_SHOWN_LETTERS = 80

_DIRECTION = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def normalise(prompt: str) -> str:
    """The prompt in NFC form without white space at its ends. Raises `ConfigError` when nothing is left."""
    text = unicodedata.normalize("NFC", prompt).strip()
    if not text:
        raise ConfigError("the prompt is empty: write what the image should show")
    return text


def prompt_id(prompt: str) -> str:
    """The prompt's name: the first 32 hex digits of the sha256 of the normalised prompt in UTF-8."""
    return hashlib.sha256(normalise(prompt).encode()).hexdigest()[:32]


def unprintable(prompt: str) -> str | None:
    """The first control character, line end or lone surrogate, as "U+0009"; None where there is none."""
    if prompt.isprintable():  # which knows these as well, and is a hundred times as fast
        return None
    for character in prompt:
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}:
            return f"U+{ord(character):04X}"
    return None


def visible(text: str) -> str:
    """A stranger's text for people to read: on one line, with \N{REPLACEMENT CHARACTER} for what would not be seen.

    These are control characters, lone surrogates, and the marks that turn the direction of the text after them.
    """
    one_line = " ".join(text.split())
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in {"Cc", "Cs"} or c in _DIRECTION else c
        for c in one_line
    )


@dataclass(frozen=True, kw_only=True)
class PromptList:
    """Prompts without repeats, and how many repeats were left out."""

    prompts: tuple[str, ...]
    num_repeats: int


def read_prompts(texts: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """Return the prompts of `read_prompt_list`, without repeats being allowed."""
    return read_prompt_list(texts, file).prompts


def read_prompt_list(
    texts: Sequence[str], file: Path | None, *, column: str | None = None, drop_duplicates: bool = False
) -> PromptList:
    """Read and normalise the prompts given one by one and those of a file, in that order.

    Args:
        texts: prompts.
        file: a prompt list in any form that `ppod_data.format.prompt_files` reads.
        column: the column or key of the file that holds the prompts; None: found by its name.
        drop_duplicates: leave repeated prompts out; otherwise they are refused.

    Raises:
        ConfigError: another form or encoding, control characters, repeats, an empty file, or no prompts at
            all. The message names the file and line.
    """
    if not texts and file is None:
        raise ConfigError("no prompts: give --prompt TEXT or --prompts FILE")
    if column is not None and file is None:
        raise ConfigError(f"--prompt-column {column} means nothing without --prompts FILE: add it")
    first: dict[str, str] = {}
    repeats: list[tuple[str, str]] = []
    for place, text in _places(texts, file, column):
        prompt = _checked(place, text)
        if prompt not in first:
            first[prompt] = place
        else:
            repeats.append((place, prompt))
    if repeats and not drop_duplicates:
        place, prompt = repeats[0]
        raise ConfigError(
            f"{place}: the same prompt as {first[prompt]}: {_short(prompt)}"
            f"{_more([place for place, _ in repeats[1:]])}: remove repeats, or give --drop-duplicates"
        )
    return PromptList(prompts=tuple(first), num_repeats=len(repeats))


def _more(places: Sequence[str]) -> str:
    if not places:
        return ""
    shown = ", ".join(places[:_SHOWN_REPEATS]) + (", …" if len(places) > _SHOWN_REPEATS else "")
    return f"; {len(places):,} more {'repeat' if len(places) == 1 else 'repeats'} ({shown})"


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= _SHOWN_LETTERS else prompt[: _SHOWN_LETTERS - 1] + "…")


def _checked(place: str, text: str) -> str:
    try:
        prompt = normalise(text)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    if bad := unprintable(prompt):
        raise ConfigError(f"{place}: the prompt holds the control character {bad}: remove it")
    return prompt


def _places(texts: Sequence[str], file: Path | None, column: str | None) -> Iterator[tuple[str, str]]:
    """Yield each prompt with the words that tell a user where it came from."""
    for number, text in enumerate(texts, start=1):
        yield f"prompt {number}", text
    if file is not None:
        yield from read_prompt_file(file, column)
