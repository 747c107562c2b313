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
        """Begin `total` units of work, for example 4096 "images". Preparations are over: time counts from here."""

    def advance(self, count: int) -> None:
        """Count `count` units as finished now."""

    def skip(self, count: int) -> None:
        """Take `count` units out of the total: an earlier call finished them, and they say nothing about the rate."""

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


SILENT: Progress = Silent()
"""The default of every `progress` parameter."""
