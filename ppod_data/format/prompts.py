"""Reading, normalising and identifying prompts."""

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
    """Return the prompt in NFC form without surrounding white space. Raises `ConfigError` if it is empty."""
    text = unicodedata.normalize("NFC", prompt).strip()
    if not text:
        raise ConfigError("the prompt is empty: write what the image should show")
    return text


def prompt_id(prompt: str) -> str:
    """Return the first 32 hex digits of the sha256 of the normalised prompt in UTF-8."""
    return hashlib.sha256(normalise(prompt).encode()).hexdigest()[:32]


def unprintable(prompt: str) -> str | None:
    """Return the first control character, line end or lone surrogate, as "U+0009", or None."""
    if prompt.isprintable():  # excludes these characters too, and is a hundred times as fast
        return None
    for character in prompt:
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}:
            return f"U+{ord(character):04X}"
    return None


def visible(text: str) -> str:
    r"""Return untrusted text for display: on one line, with \N{REPLACEMENT CHARACTER} for invisible characters.

    These are control characters, lone surrogates, and the marks that change the direction of the text after
    them.
    """
    one_line = " ".join(text.split())
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in {"Cc", "Cs"} or c in _DIRECTION else c
        for c in one_line
    )


@dataclass(frozen=True, kw_only=True)
class PromptList:
    """Prompts without repeats, and the count of repeats that were dropped."""

    prompts: tuple[str, ...]
    num_repeats: int


def read_prompts(texts: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """Return the prompts of `read_prompt_list`. Repeats are rejected."""
    return read_prompt_list(texts, file).prompts


def read_prompt_list(
    texts: Sequence[str], file: Path | None, *, column: str | None = None, drop_duplicates: bool = False
) -> PromptList:
    """Read and normalise prompts from texts, then from a file, in that order.

    Args:
        texts: prompts.
        file: a prompt list in any format that `ppod_data.format.prompt_files` reads.
        column: the column or key of the file that holds the prompts; None to detect it by name.
        drop_duplicates: drop repeated prompts instead of rejecting them.

    Raises:
        ConfigError: another format or encoding, control characters, repeats, an empty file, or no prompts at
            all. The message names the file and line.
    """
    if not texts and file is None:
        raise ConfigError("no prompts: give --prompt TEXT or --prompts FILE")
    if column is not None and file is None:
        raise ConfigError(f"--prompt-column {column} has no effect without --prompts FILE: add it")
    sources: dict[str, str] = {}
    repeats: list[tuple[str, str]] = []
    for source, text in _prompts(texts, file, column):
        prompt = _checked(source, text)
        if prompt not in sources:
            sources[prompt] = source
        else:
            repeats.append((source, prompt))
    if repeats and not drop_duplicates:
        source, prompt = repeats[0]
        raise ConfigError(
            f"{source}: the same prompt as {sources[prompt]}: {_short(prompt)}"
            f"{_more([source for source, _ in repeats[1:]])}: remove repeats, or give --drop-duplicates"
        )
    return PromptList(prompts=tuple(sources), num_repeats=len(repeats))


def _more(sources: Sequence[str]) -> str:
    if not sources:
        return ""
    listed = ", ".join(sources[:_SHOWN_REPEATS]) + (", …" if len(sources) > _SHOWN_REPEATS else "")
    return f"; {len(sources):,} more {'repeat' if len(sources) == 1 else 'repeats'} ({listed})"


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= _SHOWN_LETTERS else prompt[: _SHOWN_LETTERS - 1] + "…")


def _checked(source: str, text: str) -> str:
    try:
        prompt = normalise(text)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    if bad := unprintable(prompt):
        raise ConfigError(f"{source}: the prompt holds the control character {bad}: remove it")
    return prompt


def _prompts(texts: Sequence[str], file: Path | None, column: str | None) -> Iterator[tuple[str, str]]:
    """Yield (source, prompt); the source tells a user where the prompt comes from."""
    for number, text in enumerate(texts, start=1):
        yield f"prompt {number}", text
    if file is not None:
        yield from read_prompt_file(file, column)
