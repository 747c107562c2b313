"""Progress: a bar where someone watches, a line a milestone in a log, and no rate from work that was there already."""

import io

import pytest
from ppod_cli.app import progress as module
from ppod_cli.app.progress import loading, progress

from ppod_data.support.formatting import amount, clock
from ppod_data.support.progress import Named


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
        "gen: shard 1 of 5 made (80 of 100 images, 2.0/s, about 0:10 left)",
        "gen: shard 2 of 5 made (100 of 100 images, 2.0/s)",
    ]


def test_a_log_is_never_quiet_for_long(clock_of_test: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(100, "train", "steps") as shown:
        for step in range(100):
            clock_of_test.now += 1
            shown.advance(1)
            shown.status(f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["train: loss 30", "train: loss 61", "train: loss 92"]


def test_preparations_do_not_count_for_the_rate(
    clock_of_test: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(4, "train", "steps") as shown:
        clock_of_test.now += 40
        shown.start(4, "steps")
        clock_of_test.now += 1
        shown.advance(1)
        shown.note("one")
    assert capsys.readouterr().err == "train: one (1 of 4 steps, 1.0/s, about 0:03 left)\n"


def test_a_slow_unit_has_its_time_and_an_estimate_that_goes_down(
    clock_of_test: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(3, "online", "stages") as shown:
        clock_of_test.now += 60
        shown.advance(1)
        clock_of_test.now += 45
        shown.status("stage 2 train 8 of 24")
    assert capsys.readouterr().err == (
        "online: stage 2 train 8 of 24 (1 of 3 stages, 1:00 each, about 1:15 left)\n"
    )


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


def test_a_narrow_terminal_shows_the_count(monkeypatch: pytest.MonkeyPatch, clock_of_test: Clock) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    with progress(200, "train", "steps") as shown:
        clock_of_test.now += 31
        shown.advance(124)
        shown.status("loss 0.6931, and more words than fit")
    assert "124/200" in terminal.getvalue()
    assert "4.0/s, about 0:19 left" in terminal.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


SIZES = [(0, "0 bytes"), (1500, "1.5 kB"), (12_340_000, "12.3 MB"), (5e12, "5,000.0 GB")]


@pytest.mark.parametrize(("count", "text"), SIZES)
def test_amount(count: float, text: str) -> None:
    assert amount(count) == text


def test_a_call_that_counts_its_own_units_starts_the_clock(
    clock_of_test: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(0, "gen", "images") as shown:
        clock_of_test.now += 40
        shown.start(4, "pictures")
        shown.skip(1)
        clock_of_test.now += 1
        shown.advance(1)
        shown.note("one")
    assert capsys.readouterr().err == "gen: one (2 of 4 pictures, 1.0/s, about 0:02 left)\n"


def test_a_bar_takes_total_and_unit_of_the_call(
    monkeypatch: pytest.MonkeyPatch, clock_of_test: Clock
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with progress(0, "gen", "images") as shown:
        shown.start(8, "pictures")
        clock_of_test.now += 2
        shown.advance(6)
    text = terminal.getvalue()
    assert all(part in text for part in ("6/8", "pictures", "3.0/s"))


def test_the_phases_of_a_longer_call_have_their_own_counts(
    clock_of_test: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(0, "online", "stages") as shown:
        for name in ("stage 1 of 2: generate", "stage 1 of 2: train"):
            phase = Named(shown, name)
            clock_of_test.now += 31
            phase.start(4, "units")
            clock_of_test.now += 32
            phase.advance(2)
            phase.status("half")
    assert capsys.readouterr().err.splitlines() == [
        "online: stage 1 of 2: generate",
        "online: stage 1 of 2: generate: half (2 of 4 units, 0:16 each, about 0:32 left)",
        "online: stage 1 of 2: train",
        "online: stage 1 of 2: train: half (2 of 4 units, 0:16 each, about 0:32 left)",
    ]


def test_a_terminal_shows_what_is_loaded_without_a_count_and_keeps_none_of_it(
    monkeypatch: pytest.MonkeyPatch, clock_of_test: Clock
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with loading("gen"):
        shown = terminal.getvalue()
    assert "loading libraries" in shown
    assert "0/" not in shown
    assert "loading" not in terminal.getvalue().removeprefix(shown)
