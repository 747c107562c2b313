"""Claim: `--help` answers at once, because it imports no torch.

`ppod-gen --help` and the help of the other commands take at most 3 times the time of a bare Typer app of one command
that is asked for its help. Each run is a new process. Clock: the processes' own processor time (user and system); the
wall time is shown beside it.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from side_by_side import Report, is_quick, measure, ratios

COMMANDS = ("gen", "score", "pair", "train", "data")
BARE = """
import typer

app = typer.Typer(add_completion=False)


@app.command()
def main(name: str, count: int = 1) -> None:
    "Say hello."


app()
"""


def children_time() -> float:
    """Seconds of processor time of all processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def help_of(*command: str) -> Callable[[], None]:
    """Return a run of a command's --help in a new process."""

    def run() -> None:
        subprocess.run([sys.executable, *command, "--help"], check=True, stdout=subprocess.DEVNULL)

    return run


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE, encoding="utf-8")
        ways = {"bare": help_of(str(bare))}
        ways |= {name: help_of("-m", f"ppod_cli.{name}") for name in COMMANDS}
        clocks = {"processor": children_time, "wall": time.perf_counter}
        seconds = measure(ways, rounds=1 if quick else 10, clocks=clocks)
    for clock, of in seconds.items():
        for name in COMMANDS:
            report.add(
                f"ppod-{name} --help / --help of a bare Typer app, {clock} time",
                ratios(of[name], of["bare"]),
                bound=3.0 if clock == "processor" else None,
            )
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
