"""Observers of progress for tests."""

from ppod_data.support.progress import Silent


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
