"""Verdict on a run that did not beat the starting model, with advice."""

from collections.abc import Sequence

from ppod_train.report.records import finite, part
from ppod_train.report.runs import Evaluation, Run

_GREW_ALIKE = 0.8
"""Below this share of the initial diversity, the images have become alike."""


def no_gain(run: Run) -> str | None:
    """Return a sentence with advice if a finished or running training has not beaten its start; otherwise None.

    None is also returned if there are too few evaluations to tell.
    """
    before, later = run.before, run.later
    if before is None or not later or not run.is_training:
        return None
    best = max(later, key=_reward)
    if _reward(best) > _reward(before):
        return None
    kept = (
        f"the kept policy, of {best.label}, is worse than the starting model"
        if run.online
        else "the kept policy IS the starting model"
    )
    return f"Nothing beat the starting model: {kept}. {_advice(run, before, later)}"


def _advice(run: Run, before: Evaluation, later: Sequence[Evaluation]) -> str:
    settings = part(run.settings, "train") if run.online else run.settings
    rate = finite(settings.get("learning_rate"))
    lower = f"--learning-rate {rate / 10:g}" if rate else "a tenth of the learning rate"
    if _fell(later[0]) or _fell(later[-1]):
        alike = " and the images became alike" if _grew_alike(before, later[-1]) else ""
        since = "from the first evaluation on" if _fell(later[0]) else "later on"
        return (
            f"The reward fell {since}{alike}: the learning rate is too high; try {lower} and another --out."
        )
    higher = f"--learning-rate {rate * 3:g}" if rate else "a higher learning rate"
    return (
        "The reward hardly moved: try pairs with a clear preference (ppod-pair rank --min-margin), more steps, or "
        f"{higher}, and another --out."
    )


def _fell(item: Evaluation) -> bool:
    high = finite(item.overall.get("gain_high"))
    return high is not None and high < 0


def _grew_alike(before: Evaluation, after: Evaluation) -> bool:
    old, new = finite(before.overall.get("diversity")), finite(after.overall.get("diversity"))
    return old is not None and new is not None and new < _GREW_ALIKE * old


def _reward(item: Evaluation) -> float:
    reward = finite(item.overall.get("reward_mean"))
    return float("-inf") if reward is None else reward
