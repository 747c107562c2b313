"""Observers of progress: one that calls back, for tests that watch or stop a call, and one that counts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ppod_data.support.progress import Silent


@dataclass
class Watch:
    """Calls `hooks[method]` with the arguments of each method of `Progress`; without a hook, does nothing."""

    hooks: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def start(self, total: int, unit: str) -> None:
        self._call("start", total, unit)

    def advance(self, count: int) -> None:
        self._call("advance", count)

    def skip(self, count: int) -> None:
        self._call("skip", count)

    def note(self, text: str) -> None:
        self._call("note", text)

    def status(self, text: str) -> None:
        self._call("status", text)

    def say(self, text: str) -> None:
        self._call("say", text)

    def _call(self, method: str, *arguments: Any) -> None:
        if method in self.hooks:
            self.hooks[method](*arguments)


class Counts(Silent):
    """Records the total and every advance."""

    def __init__(self) -> None:
        self.total = 0
        self.advanced: list[int] = []
        self.lines: list[str] = []

    @property
    def done(self) -> int:
        return sum(self.advanced)

    def start(self, total: int, unit: str) -> None:
        self.total = total

    def advance(self, count: int) -> None:
        self.advanced.append(count)

    def say(self, text: str) -> None:
        self.lines.append(text)
