"""The next command after a run, and the lines that sum up an evaluation."""

from dataclasses import asdict
from pathlib import Path

from ppod_data.inspect.judge import must_be_named
from ppod_train.evaluation.exploitation import moved
from ppod_train.report.runs import read_run
from ppod_train.report.verdict import verdict
from ppod_train.run.compare import Comparison
from ppod_train.run.run_record import run_of


def evaluation_options(policy: Path) -> list[str]:
    """Return the options of `ppod-train eval` that compare a run's policy with its start; [] without a known reward.

    Args:
        policy: RUN/policy.
    """
    run = run_of(str(policy))
    if run is None:
        return []
    reward = ["--reward", "scenes"] if run.judge is None and run.model == "scenes" else []
    if run.judge is not None and must_be_named(run.judge):
        reward = ["--reward", run.judge.parts[0].reward]
    if run.judge is None and not reward:
        return []
    options = ["--model" if run.whole else "--adapter", str(policy)]
    if run.start is not None and run.start.exists():
        options += ["--baseline" if run.whole else "--baseline-adapter", str(_from_here(run.start))]
    return options + reward


def image_lines(comparison: Comparison) -> list[str]:
    """Return the lines on image statistics that moved from the baseline's, and the verdict; [] without a baseline."""
    if comparison.before is None:
        return []
    changed = moved({name: asdict(change) for name, change in comparison.after.images.items()})
    lines = [f"images: {', '.join(changed)}"] if changed else []
    return [*lines, verdict(read_run(comparison.folder))]


def _from_here(path: Path) -> Path:
    """Return the path relative to the current folder if it is inside."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
