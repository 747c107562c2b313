"""The summary at the end of a command and printable text."""

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

_TURNING = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
_LOG_WIDTH = 110


def printable(text: str) -> str:
    """Replace control characters, lone surrogates and marks of text direction.

    Names and prompts of untrusted data sets reach the terminal.
    """
    return "".join("?" if _is_unsafe(character) else character for character in text)


def _is_unsafe(character: str) -> bool:
    turning = unicodedata.bidirectional(character) in _TURNING
    return turning or unicodedata.category(character) in ("Cc", "Cs")


def say_notes(notes: Sequence[str]) -> None:
    """Print notes on stderr, a line each; of processes that work together, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            print(f"note: {printable(note)}", file=sys.stderr, flush=True)


@contextmanager
def summary(
    as_json: bool, *, speaks: bool = True
) -> Iterator[Callable[[Mapping[str, Any], Sequence[Any]], None]]:
    """Yield the function that prints a command's summary: (figures for --json, lines for people).

    A line is text or a rich renderable, such as a table. With --json, output of libraries goes to stderr, so that
    stdout holds one JSON object.

    Args:
        as_json: Print the figures instead of the lines.
        speaks: False in a process that another process prints for.
    """
    stdout = sys.stdout

    def report(figures: Mapping[str, Any], lines: Sequence[Any]) -> None:
        if not speaks:
            return
        if as_json:
            print(json.dumps(figures, allow_nan=False, ensure_ascii=False), file=stdout, flush=True)
            return
        for line in lines:
            if isinstance(line, str):
                print(printable(line), file=stdout, flush=True)
            else:
                _print_rich(line, stdout)

    with redirect_stdout(sys.stderr if as_json else stdout):
        yield report


def _print_rich(renderable: Any, stdout: TextIO) -> None:
    from rich.console import Console

    width = None if stdout.isatty() else _LOG_WIDTH
    Console(file=stdout, width=width).print(renderable)
