"""The summary at the end of a command and printable text."""

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, NamedTuple, TextIO

from ppod_data.support.processes import rank_and_world_size

_TURNING = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
_LOG_WIDTH = 110


class Outcome(NamedTuple):
    """What a command returns: the summary that it prints."""

    figures: Mapping[str, Any]
    """Printed as JSON with --json."""
    lines: Sequence[Any]
    """Printed for people: text, or rich renderables such as a table."""
    exit_code: int = 0


def printable(text: str) -> str:
    """Replace control characters, lone surrogates and marks of text direction.

    Names and prompts of untrusted data sets reach the terminal.
    """
    return "".join("?" if _is_unsafe(character) else character for character in text)


def _is_unsafe(character: str) -> bool:
    turning = unicodedata.bidirectional(character) in _TURNING
    return turning or unicodedata.category(character) in ("Cc", "Cs")


def is_main() -> bool:
    """Return True in the process that speaks for all that torchrun started."""
    return rank_and_world_size()[0] == 0


def say_notes(notes: Sequence[str]) -> None:
    """Print notes on stderr, a line each; of processes that work together, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            print(f"note: {printable(note)}", file=sys.stderr, flush=True)


@contextmanager
def summary(as_json: bool) -> Iterator[Callable[[Outcome], None]]:
    """Yield the function that prints a command's summary: its figures as JSON, or its lines.

    With --json, output of libraries goes to stderr, so that stdout holds one JSON object.
    """
    stdout = sys.stdout

    def report(outcome: Outcome) -> None:
        if as_json:
            print(json.dumps(outcome.figures, allow_nan=False, ensure_ascii=False), file=stdout, flush=True)
            return
        for line in outcome.lines:
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
