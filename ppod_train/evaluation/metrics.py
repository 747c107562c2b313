"""Settings and metrics of an evaluation; metrics are computed from per-image measurements.

Shapes: K images of a prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ppod_data.errors import ConfigError
from ppod_data.rewards import RewardModel
from ppod_data.rewards.usage import Usage
from ppod_data.support.statistics import Interval, wilson
from ppod_train.evaluation.image_changes import ImageChange
from ppod_train.evaluation.image_statistics import Pixels
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.evaluation.statistics import FloatArray, mean_interval, win_rate

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptMeasurement:
    """Measurements of the K images of one prompt."""

    rewards: FloatArray
    """[K]; NaN for an image without a score, which every metric of the reward leaves out."""
    correct: BoolArray | None = None
    """[K], True if every fact of the prompt holds, False without a score; None if the scorer does not check facts."""
    check_rewards: FloatArray | None = None
    """[K], by the check scorer; NaN for an image without a score; None without a check scorer."""
    check_correct: BoolArray | None = None
    diversity: float | None = None
    """Mean over pairs of images of the root-mean-square difference of their 8x8 averages, RGB in [0, 1]."""
    statistics: FloatArray | None = None
    """[K, 5], the columns `ppod_train.evaluation.image_statistics.STATISTICS`; None if they were not measured."""
    thumbnails: Pixels | None = None
    """uint8 [K, 8, 8, 3]; None if they were not kept."""
    images: tuple[Image.Image, ...] = ()
    """The first few images."""

    @property
    def scored(self) -> BoolArray:
        """Return a mask [K] of the images that have a score."""
        known: BoolArray = np.isfinite(self.rewards)
        return known


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics of one prompt or of all prompts. Intervals are 95 %; None if not measured."""

    num_images: int
    """Images sampled, with and without a score."""
    reward_mean: float | None
    """Mean over the images with a score; None if no image of a prompt has one."""
    reward_low: float | None
    """Lower bound from Student's t and the spread within each prompt; None below 5 images with a score."""
    reward_high: float | None
    num_failed: int = 0
    """Images without a score: the reward raised, declined or returned a number that is not finite."""
    num_check_failed: int = 0
    """Images without a score by the check scorer."""
    correct: float | None = None
    """Share of images for which every fact of the prompt holds; Wilson interval."""
    correct_low: float | None = None
    correct_high: float | None = None
    check_reward_mean: float | None = None
    """Mean reward of a second scorer that is not trained on. A fall while the reward rises indicates reward hacking."""
    check_gain: float | None = None
    """Mean of the check scorer's reward minus the baseline's on the same noise, with an interval as of `gain`."""
    check_gain_low: float | None = None
    check_gain_high: float | None = None
    check_correct: float | None = None
    diversity: float | None = None
    """As in `PromptMeasurement`, 0 for identical images; the overall value is the mean over prompts."""
    win_rate: float | None = None
    """Share of images with a higher reward than the baseline on the same noise, ties count half; Wilson interval."""
    win_rate_low: float | None = None
    win_rate_high: float | None = None
    gain: float | None = None
    """Mean reward minus the baseline's on the same noise. The interval is Student's t over the paired differences of
    the images that have a score in both."""
    gain_low: float | None = None
    gain_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Name and revision of a reward model."""

    name: str
    revision: str

    @classmethod
    def of(cls, model: RewardModel) -> "Scorer":
        """Return the name and revision of a loaded reward model."""
        return cls(name=model.name, revision=model.revision)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalResult:
    """Evaluation of one policy."""

    model: str
    adapter: str | None
    policy_fingerprint: str
    settings: EvalSettings
    """Settings with every None replaced."""
    scorer: Scorer
    check_scorer: Scorer | None
    overall: Metrics
    prompts: Mapping[str, Metrics]
    measurements: Mapping[str, PromptMeasurement]
    images: Mapping[str, ImageChange] = field(default_factory=dict)
    """Statistics of the images, over all prompts, compared with the baseline's; empty if they were not measured."""
    first_failure: str | None = None
    """Reason why the first image without a score has none, if this process scored it."""
    usage: Usage | None = None
    """Requests and tokens of the evaluation's scorers in all processes; None without such costs."""

    @property
    def reward(self) -> float:
        """Return the mean reward over all prompts."""
        assert self.overall.reward_mean is not None, "an evaluation without a score is rejected"
        return self.overall.reward_mean


def summarise(
    measurements: Mapping[str, PromptMeasurement], baseline: Mapping[str, PromptMeasurement] | None = None
) -> tuple[Metrics, dict[str, Metrics]]:
    """Return the metrics over all prompts, and the metrics of each prompt.

    Raises:
        ConfigError: the baseline holds other prompts, or another number of images of a prompt.
    """
    measured = list(measurements.values())
    metrics = [_group_metrics(group) for group in [*([item] for item in measured), measured]]
    if baseline is not None:
        metrics = _add_comparison(metrics, measured, _matching(measurements, baseline))
    return metrics[-1], dict(zip(measurements, metrics[:-1], strict=True))


def _group_metrics(group: Sequence[PromptMeasurement]) -> Metrics:
    """Return the metrics over a group of prompts, except those that need a baseline."""
    num_images = sum(len(item.rewards) for item in group)
    mean = mean_interval([item.rewards[item.scored] for item in group])
    correct = _joined([item.correct[item.scored] for item in group if item.correct is not None])
    checks = [(item.check_rewards, item.check_correct) for item in group if item.check_rewards is not None]
    check_rewards = _joined([rewards[np.isfinite(rewards)] for rewards, _ in checks])
    check_correct = _joined([right[np.isfinite(rewards)] for rewards, right in checks if right is not None])
    diversities = [item.diversity for item in group if item.diversity is not None]
    metrics = Metrics(
        num_images=num_images,
        num_failed=num_images - sum(int(item.scored.sum()) for item in group),
        num_check_failed=num_images - len(check_rewards) if checks else 0,
        reward_mean=mean.value,
        reward_low=mean.low,
        reward_high=mean.high,
        check_reward_mean=float(check_rewards.mean()) if len(check_rewards) else None,
        check_correct=float(check_correct.mean()) if len(check_correct) else None,
        diversity=float(np.mean(diversities)) if diversities else None,
    )
    if not len(correct):
        return metrics
    share = wilson(int(correct.sum()), len(correct))
    return replace(metrics, correct=share.value, correct_low=share.low, correct_high=share.high)


def _joined(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.empty(0)


def _matching(
    measurements: Mapping[str, PromptMeasurement], baseline: Mapping[str, PromptMeasurement]
) -> list[PromptMeasurement]:
    for prompt, item in measurements.items():
        if prompt not in baseline or len(baseline[prompt].rewards) != len(item.rewards):
            raise ConfigError(
                f"the baseline holds other images of {prompt!r}: evaluate the baseline with the policy's settings"
            )
    return [baseline[prompt] for prompt in measurements]


def _add_comparison(
    metrics: Sequence[Metrics], after: Sequence[PromptMeasurement], before: Sequence[PromptMeasurement]
) -> list[Metrics]:
    """Add win rate and gain over the images of the same seeds to `metrics` (of each prompt, then of all)."""
    rewards = [_paired(a.rewards, b.rewards) for a, b in zip(after, before, strict=True)]
    checks = [_paired(a.check_rewards, b.check_rewards) for a, b in zip(after, before, strict=True)]
    gains, check_gains = _gains(rewards), _gains(checks)
    wins = [win_rate(new, old) for new, old in rewards]
    new, old = (np.concatenate(side) for side in zip(*rewards, strict=True))
    wins.append(win_rate(new, old))
    return [
        replace(
            own,
            win_rate=win.value,
            win_rate_low=win.low,
            win_rate_high=win.high,
            gain=gain.value,
            gain_low=gain.low,
            gain_high=gain.high,
            check_gain=check.value,
            check_gain_low=check.low,
            check_gain_high=check.high,
        )
        for own, win, gain, check in zip(metrics, wins, gains, check_gains, strict=True)
    ]


def _paired(after: FloatArray | None, before: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """Return the scores of the seeds that have one in both evaluations; none if one did not measure them."""
    if after is None or before is None:
        return np.empty(0), np.empty(0)
    both = np.isfinite(after) & np.isfinite(before)
    return after[both], before[both]


def _gains(pairs: Sequence[tuple[FloatArray, FloatArray]]) -> list[Interval]:
    """Return the mean paired difference of each prompt, then of all prompts."""
    differences = [new - old for new, old in pairs]
    return [*(mean_interval([difference]) for difference in differences), mean_interval(differences)]
