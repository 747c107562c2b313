"""Prompts: how they are read, compared and named."""

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from ppod_data.errors import ConfigError

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


def read_prompts(texts: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """The normalised prompts given one by one and in a file of one prompt a line, in that order.

    The file is UTF-8, with or without a byte order mark; blank lines are ignored. Raises `ConfigError`,
    naming the file and line, for another encoding, control characters, duplicates, an empty file, and when
    nothing is given.
    """
    if not texts and file is None:
        raise ConfigError("no prompts: give --prompt TEXT or --prompts FILE")
    seen: dict[str, str] = {}
    for place, text in _places(texts, file):
        prompt = _checked(place, text)
        if prompt in seen:
            raise ConfigError(f"{place}: the same prompt as {seen[prompt]}: {prompt!r}; remove one of them")
        seen[prompt] = place
    return tuple(seen)


def _checked(place: str, text: str) -> str:
    try:
        prompt = normalise(text)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    if bad := unprintable(prompt):
        raise ConfigError(f"{place}: the prompt holds the control character {bad}: remove it")
    return prompt


def _places(texts: Sequence[str], file: Path | None) -> Iterator[tuple[str, str]]:
    """Each prompt with the words that tell a user where it came from."""
    for number, text in enumerate(texts, start=1):
        yield f"prompt {number}", text
    if file is not None:
        yield from _file_lines(file)


def _file_lines(file: Path) -> Iterator[tuple[str, str]]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot read the prompts: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{row}: not UTF-8: save the file in this encoding") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise ConfigError(f"{file}: no prompts in this file: write one prompt a line")
    for number, line in lines:
        yield f"{file}:{number}", line
