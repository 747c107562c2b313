"""Lines about a run while it works: its start, its drift and its evaluations."""

from collections.abc import Mapping
from typing import Any

from ppod_data.support.formatting import counted, precision
from ppod_train.evaluation.exploitation import find
from ppod_train.evaluation.metrics import EvalResult
from ppod_train.objectives import OBJECTIVES
from ppod_train.step.drift import Drift

_HARMLESS = 0.1
"""Share of the limit below which drift needs no rows."""


_MOSTLY_START = 0.5
"""Share of the starting weights in the average from which a run's policy hardly moves."""


def evaluation_line(result: EvalResult) -> str:
    """Return an evaluation in one line: reward with interval, correct images, failures, costs."""
    metrics = result.overall
    interval = metrics.reward_low, metrics.reward_high
    text = f"reward {precision([result.reward], [interval]).with_interval(result.reward, *interval)}"
    text += f", {metrics.correct:.0%} correct" if metrics.correct is not None else ""
    failed = metrics.num_failed
    reason = f" ({result.first_failure})" if result.first_failure else ""
    if (found := find(result)) is not None:
        text += f"; {found.kind}: {found.evidence}"
    text += f"; {failed} of {counted(metrics.num_images, 'image')} without a score{reason}" if failed else ""
    return text + (f"; {result.usage}" if result.usage is not None else "")


def started_lines(run: Mapping[str, Any], drift: Drift, step: int) -> list[str]:
    """Return the lines about a run that starts or resumes at `step`.

    Args:
        run: content of run.json.
    """
    settings, objective = run["settings"], OBJECTIVES[run["settings"]["objective"]]
    reads = objective.reads
    banded = "log_ratio_clip" in reads and not objective.on_final_latents
    lines = _data_lines(run)
    lines += [run["defaults"]] if run.get("defaults") else []
    if banded and "sensitivity" in run:
        lines.append(run["sensitivity"])
    if "clip_mode" in reads:
        logit = run["largest_possible_logit"]
        bound = (
            "the clip sets no bound to logits"
            if logit is None
            else f"the largest possible logit is {logit:.3g}"
        )
        lines.append(f"dpo_beta {settings['dpo_beta']:g} is the paper's η = {run['paper_eta']:.3g}; {bound}")
    if run["outside_band_at_start"] and settings["clip_anchor"] == "reference":
        lines.append(
            f"{run['outside_band_at_start']:.0%} of steps are outside the band around the reference before training"
        )
    lines += _average_lines(settings)
    lines += _drift_lines(drift, settings["log_ratio_clip"], banded=banded)
    return [*lines, f"resuming from step {step}"] if step else lines


def _average_lines(settings: Mapping[str, Any]) -> list[str]:
    """Return a note if most of the averaged policy will still be the starting weights when the run ends."""
    decay, steps = settings.get("ema_decay") or 0.0, settings["num_train_steps"]
    kept = decay**steps
    if kept <= _MOSTLY_START:
        return []
    return [
        f"note: after {counted(steps, 'step')} {kept:.0%} of the averaged policy is still its start: lower --ema-decay "
        f"{decay:g}, or train longer"
    ]


def _data_lines(run: Mapping[str, Any]) -> list[str]:
    of_pairs = f"{counted(run['num_pairs'], 'pair')} of " if run["num_pairs"] else ""
    lines = [
        f"{of_pairs}{counted(run['num_trajectories'], 'trajectory', 'trajectories')}, "
        f"{counted(run['num_trained_steps'], 'timestep')}, {run['num_trained_weights']:,} trained weights"
    ]
    if run.get("num_repeated"):
        of_pairs = f" and {counted(run['num_repeated_pairs'], 'pair')}" if run["num_pairs"] else ""
        lines.append(
            "left out as repeats of an earlier data set: "
            f"{counted(run['num_repeated'], 'trajectory', 'trajectories')}{of_pairs}; another --seed makes new images"
        )
    return lines


def _drift_lines(drift: Drift, clip: float, *, banded: bool) -> list[str]:
    """Return the result of the replay: one line, or one for each step if the drift is near its limit."""
    lines = []
    if drift.unchecked:
        lines.append(
            "not checked: the clip is around the policy that made the data, which is not here; its recorded "
            "log-probabilities are used as they are"
        )
    if drift.rounding:
        largest = max(drift.rounding)
        lines.append(
            f"rounding: once weights have moved it shifts a log-ratio by at most {largest:.1e}, "
            f"{largest / clip:.1%} of the clip"
        )
    if drift.share_exact == 1:
        return [*lines, "drift: none, every replayed log-probability is the stored one to the last bit"]
    p99, exact = f"p99 {drift.overall_p99:.1e}", f"{drift.share_exact:.0%} exact"
    if not banded:
        return [*lines, f"drift: {p99}, {exact}; this objective has no clip that drift could disturb"]
    limit = clip / 10
    if drift.overall_p99 <= _HARMLESS * limit:
        return [*lines, f"drift: none that matters ({p99}, {exact}; the limit is {limit:.1e})"]
    rows = zip(drift.steps, drift.median, drift.p99, strict=True)
    return [
        *lines,
        f"drift: {p99}, {exact}; the limit is {limit:.1e}; by step, median and p99:",
        *(f"  {number:3d}  {median:.1e}  {p99:.1e}" for number, median, p99 in rows),
    ]
