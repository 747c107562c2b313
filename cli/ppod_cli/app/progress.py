"""Progress on stderr: a bar with a rate and an estimate on a terminal, one line a shard elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ppod_data.support.formatting import clock
from ppod_data.support.progress import SILENT, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


_QUIET_SECONDS = 30.0
_SLOW_SECONDS = 2.0
"""A unit that takes longer is told as its time: its rate would be 0.0/s or 0.1/s."""


@contextmanager
def progress(total: int, label: str, unit: str, *, silent: bool = False) -> Iterator[Progress]:
    """Report on `total` units of work, for example 4096 "images", until the block ends.

    Args:
        total: 0 where the call that is reported on counts its units itself, by `start`. Until then a terminal shows the
            activity without a count; if the block ends before, nothing of it stays.
        silent: another process speaks for this one.
    """
    if silent:
        yield SILENT
    elif sys.stderr.isatty():
        with _bar(total, label, unit) as shown:
            yield shown
    else:
        yield _Lines(total, label, unit)


@contextmanager
def loading(label: str, *, silent: bool = False) -> Iterator[None]:
    """Show, until the block ends, that a command imports its libraries, which takes seconds.

    Args:
        silent: another process speaks for this one.
    """
    with progress(0, label, "", silent=silent) as shown:
        shown.note("loading libraries")
        yield


class _Pace:
    """Units done now and before, the rate at which they are done, and an estimate of the time left."""

    def __init__(self, total: int) -> None:
        self.start(total)

    def start(self, total: int) -> None:
        self.done, self.skipped, self.total = 0, 0, total
        self._start = self._last = time.monotonic()

    @property
    def finished(self) -> int:
        return self.done + self.skipped

    @property
    def count(self) -> str:
        return f"{self.finished}/{self.total}".rjust(2 * len(str(self.total)) + 1)

    def advance(self, count: int) -> None:
        self.done += count
        self._last = time.monotonic()

    def words(self) -> list[str]:
        """Return `["12.3/s", "about 1:02 left"]`, as far as they are known; a slow rate as `"0:25 each"`."""
        if self.done <= 0:
            return []
        each = max(self._last - self._start, 1e-9) / self.done
        rate = f"{1 / each:.1f}/s" if each < _SLOW_SECONDS else f"{clock(each)} each"
        left = (self.total - self.finished) * each - (time.monotonic() - self._last)
        return [rate] + ([f"about {clock(max(left, 0))} left"] if self.finished < self.total else [])


class _Lines:
    """One line a milestone, for logs."""

    def __init__(self, total: int, label: str, unit: str) -> None:
        self._pace, self._label, self._unit = _Pace(total), label, unit
        self._said = time.monotonic()

    def start(self, total: int, unit: str) -> None:
        self._pace.start(total)
        self._unit = unit

    def advance(self, count: int) -> None:
        self._pace.advance(count)

    def skip(self, count: int) -> None:
        self._pace.skipped += count

    def note(self, text: str) -> None:
        pace = self._pace
        done = [f"{pace.finished} of {pace.total} {self._unit}", *pace.words()] if pace.done else []
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
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),  # room for the words on 80 columns
        TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[unit]}"),
        TextColumn("{task.fields[speed]}"),
        # What is left of the line: other columns are never cut for it.
        TextColumn("{task.fields[milestone]}", table_column=Column(ratio=1, no_wrap=True)),
    )
    with RichProgress(*columns, console=Console(stderr=True), expand=True) as bars:
        task = bars.add_task(label, total=None, count="", unit="", speed="", milestone="")
        bar = _Bar(bars, task)
        if total:
            bar.start(total, unit)
        try:
            yield bar
        finally:
            if not bars.tasks[0].fields["count"]:
                bars.remove_task(task)


class _Bar:
    """A bar on a terminal."""

    def __init__(self, bars: "RichProgress", task: "TaskID") -> None:
        self._bars, self._task, self._pace = bars, task, _Pace(0)

    def start(self, total: int, unit: str) -> None:
        self._pace.start(total)
        self._bars.update(self._task, total=total or None, unit=unit)
        self._show()

    def advance(self, count: int) -> None:
        self._pace.advance(count)
        self._show()

    def skip(self, count: int) -> None:
        self._pace.skipped += count
        self._show()

    def _show(self) -> None:
        pace = self._pace
        self._bars.update(
            self._task,
            completed=pace.finished,
            count=pace.count if pace.total else "",
            speed=", ".join(pace.words()),
        )

    def note(self, text: str) -> None:
        self.status(text)
        self._bars.refresh()  # before work that keeps the interpreter busy

    def status(self, text: str) -> None:
        self._bars.update(self._task, milestone=text, speed=", ".join(self._pace.words()))

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)
