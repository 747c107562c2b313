"""Verdict on a run, in one sentence about the policy on the disk, and what to try first.

The rules are those of docs/metrics.md, "The verdict".
"""

from collections.abc import Sequence

from ppod_data.support.formatting import Precision, percent, precision
from ppod_train.evaluation.exploitation import Finding, moved
from ppod_train.objectives import OBJECTIVES
from ppod_train.report.records import Record, finite, part
from ppod_train.report.runs import Evaluation, Run, finding_of

_ALL_CLIPPED = 0.05
"""Below this share of log-ratios inside the band nothing is left to learn."""


def verdict(run: Run) -> str:
    """Return the verdict on a training run, finished or not, or on an evaluation."""
    before, shown = run.before, run.after
    if not run.evaluations:
        return "No evaluation judged the policy: ppod-train eval does."
    if before is None or not run.later:
        return "No evaluation compares the policy with its start yet."
    if run.is_training and (no_gain := _no_gain(run, before)):
        return no_gain
    assert shown is not None, "a policy other than the start was kept"
    found = finding_of(shown)
    if found is not None:
        return f"Not better. {found.sentence()} {_against(run, found)}".strip()
    gain, low, high = (finite(shown.overall.get(name)) for name in ("gain", "gain_low", "gain_high"))
    if gain is None:
        return f"{shown.label.capitalize()}: no evaluation compares it with its start on the same seeds."
    if high is not None and high < 0:
        return f"Worse: {_figures(shown)}."
    if low is None or low <= 0:
        return f"Not clearly better: {_figures(shown)}. {_if_unclear(run)}".strip()
    return f"Better: {_figures(shown)}.{_if_rising(run)}"


def _figures(shown: Evaluation) -> str:
    """Return the gain with its interval, wins, the check scorer and the statistics that moved."""
    overall = shown.overall
    parts = [f"reward {_gain(overall, 'gain')} on the same seeds"]
    wins, correct = finite(overall.get("win_rate")), finite(overall.get("correct"))
    parts += [f"{percent(wins)} wins"] if wins is not None else []
    parts += [f"{percent(correct)} fully correct"] if correct is not None else []
    if finite(overall.get("check_gain")) is not None:
        parts.append(f"check scorer {_gain(overall, 'check_gain')}")
    statistics = part(shown.record, "statistics")
    return ", ".join([*parts, *moved({name: part(statistics, name) for name in statistics})])


def _gain(overall: Record, name: str) -> str:
    value, low, high = (finite(overall.get(f"{name}{end}")) for end in ("", "_low", "_high"))
    form: Precision = precision([value], [(low, high)])
    if low is None or high is None:
        return form.number(value, sign=True)
    return f"{form.number(value, sign=True)} ({form.number(low)} … {form.number(high)})"


def _no_gain(run: Run, before: Evaluation) -> str | None:
    """Return a sentence with advice if the kept policy of a training run is not above its start; otherwise None."""
    if run.after is not None and _reward(run.after) > _reward(before):
        return None
    kept = "the kept policy IS the starting model"
    if run.after is not None:  # an online run keeps a stage's policy all the same
        kept = f"the kept policy, of {run.after.label}, is not better than the starting model"
    for item in run.later:
        if (found := finding_of(item)) is not None:
            policy = f"The policy of {item.label}" if run.online else "The policy"
            return f"Nothing beat the starting model: {kept}. {found.sentence(policy)} {_against(run, found)}"
    return f"Nothing beat the starting model: {kept}. {_advice(run, run.later)}"


def _advice(run: Run, later: Sequence[Evaluation]) -> str:
    if _fell(later[0]) or _fell(later[-1]):
        since = "from the first evaluation on" if _fell(later[0]) else "later on"
        return f"The reward fell {since}: the learning rate is too high; try {_lower_rate(run)} and another --out."
    rate = finite(_settings(run).get("learning_rate"))
    higher = f"--learning-rate {rate * 3:g}" if rate else "a higher learning rate"
    objective = OBJECTIVES.get(str(_settings(run).get("objective")))
    clearer = "pairs with a clear preference (ppod-pair rank --min-margin), "
    pairs = clearer if objective is None or objective.on_pairs else ""
    return f"The reward hardly moved: try {pairs}more steps, or {higher}, and another --out."


def _against(run: Run, found: Finding) -> str:
    """Return what to try first against exploitation or collapse; "" for an evaluation."""
    if not run.is_training:
        return ""
    if found.kind == "exploited":
        stop = "" if run.settings.get("stop_when") == "exploited" else " --stop-when exploited,"
        return f"Look at the samples: try a sum of rewards,{stop} or fewer steps, and another --out."
    if _settings(run).get("log_ratio_clip") in (None, float("inf")):
        return "Try a finite --log-ratio-clip and another --out."
    return f"The learning rate is too high; try {_lower_rate(run)} and another --out."


def _lower_rate(run: Run) -> str:
    rate = finite(_settings(run).get("learning_rate"))
    return f"--learning-rate {rate / 10:g}" if rate else "a tenth of the learning rate"


def _if_unclear(run: Run) -> str:
    """Return what to try first if the gain may be chance."""
    if not run.is_training:
        return "The gain may be chance: evaluate more images per prompt."
    inside = finite(run.metrics[-1].get("in_band_share")) if run.metrics else None
    if inside is not None and inside < _ALL_CLIPPED:
        return (
            "The gain may be chance, and nearly all steps are outside the clip: make a new data set from the kept "
            "policy, or train online."
        )
    return "The gain may be chance: train longer, or on more images per prompt."


def _if_rising(run: Run) -> str:
    """Return the advice to train longer if the last of several evaluations is the best."""
    if run.is_training and not run.online and len(run.later) > 1 and run.after is run.later[-1]:
        return " The reward was still rising: try more --num-train-steps."
    return ""


def _settings(run: Run) -> Record:
    return part(run.settings, "train") if run.online else run.settings


def _fell(item: Evaluation) -> bool:
    high = finite(item.overall.get("gain_high"))
    return high is not None and high < 0


def _reward(item: Evaluation) -> float:
    reward = finite(item.overall.get("reward_mean"))
    return float("-inf") if reward is None else reward
