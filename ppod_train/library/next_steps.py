"""What to do after a run: evaluate its policy."""

from pathlib import Path

from ppod_data.inspect.judge import must_be_named
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


def _from_here(path: Path) -> Path:
    """Return the path relative to the current folder if it is inside."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
