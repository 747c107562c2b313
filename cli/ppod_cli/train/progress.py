"""The last lines of a training run."""

from pathlib import Path
from typing import Any

from ppod_cli.app.hints import free_name, next_line
from ppod_cli.app.output import Outcome


def reward_line(before: float | None, best: float | None, when: str) -> list[str]:
    """Return the line on the gain in validation reward; none without evaluations."""
    from ppod_data.support.formatting import precision

    if before is None or best is None:
        return []
    number = precision([before, best]).number
    return [f"validation reward {number(before)} → {number(best)} {when}"]


def end_lines(out: Path, verdict: str) -> list[str]:
    """Return the last lines of a run: its policy, its report, the next command and the verdict."""
    from ppod_train.library.next_steps import evaluation_options

    policy = out / "policy"
    lines = [f"policy: {policy}", f"report: {out / 'report.html'}"]
    if options := evaluation_options(policy):
        lines.append(next_line("ppod-train", "eval", *options, "--out", free_name(f"{out}-eval")))
    return [*lines, verdict]


def with_upload(repository: str | None, out: Path, figures: dict[str, Any], lines: list[str]) -> Outcome:
    """Complete a run's summary; upload its policy if a repository was given."""
    figures = {"run": str(out)} | figures
    figures |= {"policy": str(out / "policy"), "report": str(out / "report.html")}
    if repository is None:
        return Outcome(figures, lines)
    from ppod_train.library.hub import push_policy

    address = push_policy(out / "policy", repository)
    return Outcome(figures | {"pushed_to": address}, [*lines, f"uploaded: {address}"])
