"""Progress on stderr: a bar with a rate and an estimate on a terminal, one line a shard elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


_QUIET_SECONDS = 30.0


class Progress(Protocol):
    """What a command reports to while it works."""

    def advance(self, count: int) -> None:
        """`count` units were done just now."""

    def skip(self, count: int) -> None:
        """`count` units need no work: they count neither for the rate nor for the estimate."""

    def note(self, text: str) -> None:
        """A milestone, such as a finished shard: a line where there is no terminal."""

    def status(self, text: str) -> None:
        """What is happening now, for who is watching: in a log, a line when there was none for a while."""

    def say(self, text: str) -> None:
        """A line above the bar, which stays."""


@contextmanager
def progress(total: int, label: str, unit: str, *, silent: bool = False) -> Iterator[Progress]:
    """Report on `total` units of work, for example 4096 "images", until the block ends.

    Args:
        silent: another process speaks for this one.
    """
    if silent:
        yield _Silent()
    elif sys.stderr.isatty():
        with _bar(total, label, unit) as shown:
            yield shown
    else:
        yield _Lines(total, label, unit)


class _Silent:
    def advance(self, count: int) -> None: ...
    def skip(self, count: int) -> None: ...
    def note(self, text: str) -> None: ...
    def status(self, text: str) -> None: ...
    def say(self, text: str) -> None: ...


class _Lines:
    """One line a milestone, for logs."""

    def __init__(self, total: int, label: str, unit: str) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._done, self._start = 0, time.monotonic()
        self._said = self._start

    def advance(self, count: int) -> None:
        self._done += count

    def skip(self, count: int) -> None:
        self._total -= count

    def note(self, text: str) -> None:
        speed = _speed(self._done, self._total, time.monotonic() - self._start)
        done = [f"{self._done} of {self._total} {self._unit}", *speed] if self._done else []
        self.say(f"{self._label}: {text}" + (f" ({', '.join(done)})" if done else ""))

    def status(self, text: str) -> None:
        if time.monotonic() - self._said > _QUIET_SECONDS:
            self.note(text)

    def say(self, text: str) -> None:
        self._said = time.monotonic()
        print(text, file=sys.stderr, flush=True)


@contextmanager
def _bar(total: int, label: str, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),  # room for the words on 80 columns
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[milestone]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        yield _Bar(bars, bars.add_task(label, total=total, speed="", milestone=""), total)


class _Bar:
    """A bar on a terminal."""

    def __init__(self, bars: "RichProgress", task: "TaskID", total: int) -> None:
        self._bars, self._task, self._total = bars, task, total
        self._done, self._start = 0, time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        speed = ", ".join(_speed(self._done, self._total, time.monotonic() - self._start))
        self._bars.update(self._task, completed=self._done, speed=speed)

    def skip(self, count: int) -> None:
        self._total -= count
        self._bars.update(self._task, total=self._total)

    def note(self, text: str) -> None:
        self._bars.update(self._task, milestone=text)

    def status(self, text: str) -> None:
        self.note(text)

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)


def _speed(done: int, total: int, seconds: float) -> list[str]:
    """`["12.3/s", "about 1:02 left"]`, as far as they are known."""
    if done <= 0:
        return []
    rate = done / max(seconds, 1e-9)
    return [f"{rate:.1f}/s"] + ([f"about {clock((total - done) / rate)} left"] if done < total else [])


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
