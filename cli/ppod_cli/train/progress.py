"""What a training run says while it works and at its end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppod_cli.app.hints import free_name, next_line
from ppod_cli.app.progress import Display

if TYPE_CHECKING:
    from ppod_train.evaluation.metrics import EvalResult
    from ppod_train.run.train import Callbacks, TrainSummary
    from ppod_train.step.drift import Drift
    from ppod_train.step.metrics import StepMetrics


_HARMLESS = 0.1
"""Of the limit: drift below this share of it needs no rows."""


def run_callbacks(out: Path, shown: Display) -> "Callbacks":
    """Callbacks that tell `shown` what happens in the run folder `out`."""
    from ppod_train.run.train import Callbacks

    def on_start(drift: "Drift", step: int) -> None:
        shown.skip(step)
        for line in _say_started(out, drift, step):
            shown.say(line)
        shown.begin()

    def on_step(metrics: "StepMetrics") -> None:
        shown.advance(1)
        shown.status(f"loss {metrics.loss:.4f}")

    def on_eval(step: int, result: "EvalResult") -> None:
        shown.say(f"train: step {step}: {eval_words(result)}")
        shown.begin()

    return Callbacks(on_start=on_start, on_step=on_step, on_eval=on_eval)


def eval_words(result: "EvalResult") -> str:
    """An evaluation in a line."""
    from ppod_data.support.formatting import precision
    from ppod_train.evaluation.exploitation import find

    figures = result.overall
    interval = figures.reward_low, figures.reward_high
    text = f"reward {precision([result.reward], [interval]).with_interval(result.reward, *interval)}"
    text += f", {figures.correct:.0%} correct" if figures.correct is not None else ""
    failed = figures.num_failed
    reason = f" ({result.first_failure})" if result.first_failure else ""
    if (found := find(result)) is not None:
        text += f"; {found.kind}: {found.evidence}"
    return text + (f"; {failed} of {figures.num_images} images without a score{reason}" if failed else "")


def _say_started(out: Path, drift: "Drift", step: int) -> list[str]:
    from ppod_data.storage.json_reader import read_object
    from ppod_train.objectives import OBJECTIVES

    run = read_object(out / "run.json")
    logit = run["largest_possible_logit"]
    of_pairs = f"{run['num_pairs']:,} pairs of " if run["num_pairs"] else ""
    lines = [
        f"{of_pairs}{run['num_trajectories']:,} trajectories, {run['num_trained_steps']} timesteps, "
        f"{run['num_trained_weights']:,} trained weights"
    ]
    if run.get("num_repeated"):
        of_pairs = f" and {run['num_repeated_pairs']:,} pairs" if run["num_pairs"] else ""
        lines.append(
            f"{run['num_repeated']:,} trajectories{of_pairs} are the same as in an earlier data set, and left out: "
            "another --seed makes new images"
        )
    lines += [run["defaults"]] if run.get("defaults") else []
    if "log_ratio_clip" in OBJECTIVES[run["settings"]["objective"]].reads and "sensitivity" in run:
        lines.append(run["sensitivity"])
    if "clip_mode" in OBJECTIVES[run["settings"]["objective"]].reads:
        bound = (
            "the clip sets no bound to logits"
            if logit is None
            else f"the largest possible logit is {logit:.3g}"
        )
        lines.append(
            f"dpo_beta {run['settings']['dpo_beta']:g} is the paper's η = {run['paper_eta']:.3g}; {bound}"
        )
    if run["outside_band_at_start"] and run["settings"]["clip_anchor"] == "reference":
        lines.append(
            f"{run['outside_band_at_start']:.0%} of steps are outside the band around the reference before training"
        )
    if drift.unchecked:
        lines.append(
            "not checked: the clip is around the policy that made the data, which is not here; its recorded "
            "log-probabilities are taken as they are"
        )
    if drift.rounding:
        largest, clip = max(drift.rounding), run["settings"]["log_ratio_clip"]
        lines.append(
            f"rounding: once weights have moved it shifts a log-ratio by at most {largest:.1e}, "
            f"{largest / clip:.1%} of the clip"
        )
    banded = "log_ratio_clip" in OBJECTIVES[run["settings"]["objective"]].reads
    lines += _say_drift(drift, run["settings"]["log_ratio_clip"] / 10 if banded else None)
    return [*lines, f"going on from step {step}"] if step else lines


def _say_drift(drift: "Drift", limit: float | None) -> list[str]:
    """Say in a line that replayed log-probabilities are right; by step where they come near to the limit."""
    if drift.share_exact == 1:
        return ["drift: none, every replayed log-probability is the stored one to the last bit"]
    p99, exact = f"p99 {drift.overall_p99:.1e}", f"{drift.share_exact:.0%} exact"
    if limit is None:
        return [f"drift: {p99}, {exact}; this objective has no clip that it could disturb"]
    if drift.overall_p99 <= _HARMLESS * limit:
        return [f"drift: none that matters ({p99}, {exact}; refused above {limit:.1e})"]
    rows = zip(drift.steps, drift.median, drift.p99, strict=True)
    return [
        f"drift: {p99}, {exact}; refused above {limit:.1e}; by step, median and p99:",
        *(f"  {number:3d}  {median:.1e}  {p99:.1e}" for number, median, p99 in rows),
    ]


def say_trained(out: Path, done: "TrainSummary") -> list[str]:
    """The last lines of a run, with the command to type next."""
    from ppod_data.support.formatting import precision

    lines = [f"{out}: {done.steps} steps" + (", stopped early" if done.stopped_early else "")]
    if done.reward_before is not None and done.reward_best is not None:
        shown = precision([done.reward_before, done.reward_best]).number
        lines.append(
            f"validation reward {shown(done.reward_before)} → {shown(done.reward_best)} at step {done.best_step}, "
            f"{done.reward_queries:,} images judged"
        )
    return [*lines, *say_ended(out, out / done.policy, done.verdict)]


def say_ended(out: Path, policy: Path, verdict: str) -> list[str]:
    """Return the last lines of a run: its policy, its report, the next command and the verdict."""
    return [f"policy: {policy}", f"report: {out / 'report.html'}", *say_eval(out, policy), verdict]


def say_eval(out: Path, policy: Path) -> list[str]:
    """Return the line that evaluates a run's policy against what training started from; no line without a judge."""
    from ppod_data.inspect.judge import must_be_named
    from ppod_train.run.run_record import run_of

    run = run_of(str(policy))
    if run is None:
        return []
    judged = ["--reward", "scenes"] if run.judge is None and run.model == "scenes" else []
    if run.judge is not None and must_be_named(run.judge):
        judged = ["--reward", run.judge.parts[0].reward]
    if run.judge is None and not judged:
        return []
    words = ["--model" if run.whole else "--adapter", policy]
    if run.start is not None and run.start.exists():
        words += ["--baseline" if run.whole else "--baseline-adapter", _from_here(run.start)]
    return [next_line("ppod-train", "eval", *words, *judged, "--out", free_name(f"{out}-eval"))]


def _from_here(path: Path) -> Path:
    """Return the path relative to the current folder if it is inside."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def with_upload(
    repository: str | None, policy: Path, figures: Mapping[str, Any], lines: Sequence[Any]
) -> tuple[Mapping[str, Any], Sequence[Any]]:
    """Upload the policy where a repository was given, and add its address to a command's summary."""
    if repository is None:
        return figures, lines
    from ppod_train.run.hub import push_policy

    address = push_policy(policy, repository)
    return {**figures, "pushed_to": address}, [*lines, f"uploaded: {address}"]
