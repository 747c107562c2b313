"""Progress: a bar where someone watches, a line a milestone in a log, and no rate from work that was there already."""

import io

import pytest
from ppod_cli.app import progress as module
from ppod_cli.app.output import amount
from ppod_cli.app.progress import clock, progress


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock_of_test(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(module, "time", fake)
    return fake


class Terminal(io.StringIO):
    """A stream that says it is watched."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_a_milestone(clock_of_test: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(100, "gen", "images") as shown:
        shown.skip(60)
        shown.note("shard 0 of 5 was there")
        for _ in range(2):
            clock_of_test.now += 5
            shown.advance(10)
        shown.note("shard 1 of 5 made")
        clock_of_test.now += 10
        shown.advance(20)
        shown.note("shard 2 of 5 made")
    assert capsys.readouterr().err.splitlines() == [
        "gen: shard 0 of 5 was there",
        "gen: shard 1 of 5 made (20 of 40 images, 2.0/s, about 0:10 left)",
        "gen: shard 2 of 5 made (40 of 40 images, 2.0/s)",
    ]


def test_a_log_is_never_quiet_for_long(clock_of_test: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(100, "train", "steps") as shown:
        for step in range(100):
            clock_of_test.now += 1
            shown.advance(1)
            shown.status(f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["train: loss 30", "train: loss 61", "train: loss 92"]


def test_a_terminal_gets_a_bar_with_rate_and_estimate(
    monkeypatch: pytest.MonkeyPatch, clock_of_test: Clock
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with progress(100, "gen", "images") as shown:
        clock_of_test.now += 2
        shown.advance(50)
        shown.say("[not markup]")
        shown.note("shard 1 of 2 made")
    text = terminal.getvalue()
    for part in ("50/100", "images 25.0/s, about 0:02 left", "[not markup]", "shard 1 of 2 made"):
        assert part in text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


SIZES = [(0, "0 bytes"), (1500, "1.5 kB"), (12_340_000, "12.3 MB"), (5e12, "5,000.0 GB")]


@pytest.mark.parametrize(("count", "text"), SIZES)
def test_amount(count: float, text: str) -> None:
    assert amount(count) == text
