"""Progress on stderr: a bar with a rate and an estimate on a terminal, one line a shard elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from ppod_data.support.formatting import clock
from ppod_data.support.progress import Progress, Silent

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


_QUIET_SECONDS = 30.0
_SLOW_SECONDS = 10.0
"""A unit that takes longer is told in minutes each: its rate would be 0.0/s."""


class Display(Progress, Protocol):
    """Progress as a command shows it."""

    def begin(self) -> None:
        """Start the clock of rate and estimate anew, unless units were done: preparations are over."""


@contextmanager
def progress(total: int, label: str, unit: str, *, silent: bool = False) -> Iterator[Display]:
    """Report on `total` units of work, for example 4096 "images", until the block ends.

    Args:
        total: 0 where the call that is reported on counts its units itself, by `start`.
        silent: another process speaks for this one.
    """
    if silent:
        yield _Silent()
    elif sys.stderr.isatty():
        with _bar(total, label, unit) as shown:
            yield shown
    else:
        yield _Lines(total, label, unit)


class _Pace:
    """Units done, the rate at which they are done, and an estimate of the time left."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total
        self._start = self._last = time.monotonic()

    def start(self, total: int) -> None:
        self.done, self.total = 0, total
        self.begin()

    def begin(self) -> None:
        if not self.done:
            self._start = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        self._last = time.monotonic()

    def words(self) -> list[str]:
        """Return `["12.3/s", "about 1:02 left"]`, as far as they are known; a slow rate as `"0:25 each"`."""
        if self.done <= 0:
            return []
        each = max(self._last - self._start, 1e-9) / self.done
        rate = f"{1 / each:.1f}/s" if each < _SLOW_SECONDS else f"{clock(each)} each"
        left = (self.total - self.done) * each - (time.monotonic() - self._last)
        return [rate] + ([f"about {clock(max(left, 0))} left"] if self.done < self.total else [])


class _Silent(Silent):
    def begin(self) -> None: ...


class _Lines:
    """One line a milestone, for logs."""

    def __init__(self, total: int, label: str, unit: str) -> None:
        self._pace, self._label, self._unit = _Pace(total), label, unit
        self._said = time.monotonic()

    def start(self, total: int, unit: str) -> None:
        self._pace.start(total)
        self._unit = unit

    def begin(self) -> None:
        self._pace.begin()

    def advance(self, count: int) -> None:
        self._pace.advance(count)

    def skip(self, count: int) -> None:
        self._pace.total -= count

    def note(self, text: str) -> None:
        pace = self._pace
        done = [f"{pace.done} of {pace.total} {self._unit}", *pace.words()] if pace.done else []
        self.say(f"{self._label}: {text}" + (f" ({', '.join(done)})" if done else ""))

    def status(self, text: str) -> None:
        if time.monotonic() - self._said > _QUIET_SECONDS:
            self.note(text)

    def say(self, text: str) -> None:
        self._said = time.monotonic()
        print(text, file=sys.stderr, flush=True)


@contextmanager
def _bar(total: int, label: str, unit: str) -> Iterator[Display]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),  # room for the words on 80 columns
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[unit]}"),
        TextColumn("{task.fields[speed]}"),
        # What is left of the line: other columns are never cut for it.
        TextColumn("{task.fields[milestone]}", table_column=Column(ratio=1, no_wrap=True)),
    )
    with RichProgress(*columns, console=Console(stderr=True), expand=True) as bars:
        yield _Bar(bars, bars.add_task(label, total=total, unit=unit, speed="", milestone=""), total)


class _Bar:
    """A bar on a terminal."""

    def __init__(self, bars: "RichProgress", task: "TaskID", total: int) -> None:
        self._bars, self._task, self._pace = bars, task, _Pace(total)

    def start(self, total: int, unit: str) -> None:
        self._pace.start(total)
        self._bars.update(self._task, completed=0, total=total, unit=unit)

    def begin(self) -> None:
        self._pace.begin()

    def advance(self, count: int) -> None:
        self._pace.advance(count)
        self._bars.update(self._task, completed=self._pace.done, speed=", ".join(self._pace.words()))

    def skip(self, count: int) -> None:
        self._pace.total -= count
        self._bars.update(self._task, total=self._pace.total)

    def note(self, text: str) -> None:
        self._bars.update(self._task, milestone=text, speed=", ".join(self._pace.words()))

    def status(self, text: str) -> None:
        self.note(text)

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)
