"""Progress of long calls: the protocol that they report to, and its silent default.

class Dots(Silent):
    def advance(self, count: int) -> None:
        print("." * count, end="")

generate("data", spec, model, progress=Dots())
"""

from typing import Protocol


class Progress(Protocol):
    """An observer of one call at a time. A new call starts anew; one that ends early leaves units undone."""

    def start(self, total: int, unit: str) -> None:
        """Begin `total` units of work, for example 4096 "images"; 0 if unknown. Time counts from here."""

    def advance(self, count: int) -> None:
        """Count `count` units as finished now."""

    def skip(self, count: int) -> None:
        """Count `count` units that an earlier call finished; the rate leaves them out."""

    def note(self, text: str) -> None:
        """Record a milestone, such as a finished shard. A log shows each of them."""

    def status(self, text: str) -> None:
        """Show the current activity, such as a file's name. A log shows few of them."""

    def say(self, text: str) -> None:
        """Show a line that stays, such as the loss of a worker."""


class Silent:
    """A `Progress` that shows nothing, and a base for classes that show part of it."""

    def start(self, total: int, unit: str) -> None:
        """Show nothing."""

    def advance(self, count: int) -> None:
        """Show nothing."""

    def skip(self, count: int) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def status(self, text: str) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""


class Inner(Silent):
    """Progress of a call inside a longer one, whose total counts the same units."""

    def __init__(self, outer: Progress) -> None:
        self._outer = outer

    def advance(self, count: int) -> None:
        """Count finished units in the longer call."""
        self._outer.advance(count)


class Named:
    """Progress of a phase of a longer call, with a count of its own; each activity begins with the phase's name."""

    def __init__(self, outer: Progress, name: str) -> None:
        self._outer, self._name = outer, name
        outer.start(0, "")
        outer.note(name)

    def start(self, total: int, unit: str) -> None:
        """Begin to count the units of this phase."""
        self._outer.start(total, unit)

    def advance(self, count: int) -> None:
        """Count units of this phase."""
        self._outer.advance(count)

    def skip(self, count: int) -> None:
        """Count units of this phase that were finished before."""
        self._outer.skip(count)

    def note(self, text: str) -> None:
        """Show a milestone, which is a detail of the longer call."""
        self.status(text)

    def status(self, text: str) -> None:
        """Show the activity after the name of the phase."""
        self._outer.status(f"{self._name}: {text}")

    def say(self, text: str) -> None:
        """Show a line that stays."""
        self._outer.say(text)


class Phase(Silent):
    """Progress of a call inside a longer one, whose activity shows this call's name and count."""

    def __init__(self, outer: Progress, name: str) -> None:
        self._outer, self._name = outer, name
        self._finished = self._total = 0

    def start(self, total: int, unit: str) -> None:
        """Begin to count."""
        self._finished, self._total = 0, total

    def advance(self, count: int) -> None:
        """Show how much of the phase is finished."""
        self._finished += count
        self._outer.status(f"{self._name} {self._finished:,} of {self._total:,}")

    def skip(self, count: int) -> None:
        """Show work of an earlier call as finished."""
        self.advance(count)

    def say(self, text: str) -> None:
        """Show a line that stays."""
        self._outer.say(text)


SILENT: Progress = Silent()
"""The default of every `progress` parameter."""
