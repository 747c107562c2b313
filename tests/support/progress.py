"""A `Progress` that calls back, for tests that watch or stop a call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


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
