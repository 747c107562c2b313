"""What an evaluation consists of, and its figures, worked out from what was measured on each image.

Shapes: K images of a prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from ppod_data.errors import ConfigError
from ppod_train.statistics import FloatArray, bootstrap_means, wilson, win_rate

BoolArray = npt.NDArray[np.bool_]

_BOOTSTRAP_SEED = (
    0  # resamples are part of the definition of an interval: the same scores give the same interval
)


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptMeasurement:
    """What was measured on the K images of one prompt."""

    rewards: FloatArray
    """[K]"""
    correct: BoolArray | None = None
    """[K], whether every fact of the prompt holds; None where the scorer cannot say."""
    check_rewards: FloatArray | None = None
    """[K], by the check scorer; None without one."""
    check_correct: BoolArray | None = None
    diversity: float | None = None
    """Mean over pairs of images of the root-mean-square difference of their 8x8 averages, RGB in [0, 1]."""
    images: tuple[Image.Image, ...] = ()
    """The first few."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one prompt, or of all. Intervals are 95 %; None where something was not measured."""

    num_images: int
    reward_mean: float
    reward_low: float
    """The interval is a percentile bootstrap, resampled within each prompt."""
    reward_high: float
    correct: float | None = None
    """Share of images of which every fact of the prompt holds; Wilson interval."""
    correct_low: float | None = None
    correct_high: float | None = None
    check_reward_mean: float | None = None
    """By a second scorer that nothing is trained on; where it falls as the reward climbs, that is hacked."""
    check_correct: float | None = None
    diversity: float | None = None
    """As in `PromptMeasurement`, 0 for identical images; overall it is the mean over prompts."""
    win_rate: float | None = None
    """Share of images whose reward passes the baseline's on the same noise, ties half; Wilson interval."""
    win_rate_low: float | None = None
    win_rate_high: float | None = None
    gain: float | None = None
    """Mean reward minus the baseline's on the same noise; bootstrap interval of the paired differences."""
    gain_low: float | None = None
    gain_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """Which images are made. Two evaluations can be compared image by image when these agree.

    None is filled in as for a data set: see `ppod_data.generate.build_spec`.
    """

    prompts: tuple[str, ...]
    negative_prompt: str = ""
    num_images_per_prompt: int = 64
    num_inference_steps: int = 20
    guidance_scale: float | None = None
    ddim_eta: float | None = None
    seed: int = 0
    batch_size: int | None = None
    """Images sampled and scored at a time; the last bits of an image depend on it."""
    validation: bool = False
    """Noise of its own for choosing a checkpoint while training: what is reported was not chosen on."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Which reward model gave the scores."""

    name: str
    revision: str


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalResult:
    """One policy's evaluation."""

    model: str
    adapter: str | None
    policy_fingerprint: str
    settings: EvalSettings
    """With every None filled in."""
    scorer: Scorer
    check_scorer: Scorer | None
    overall: Figures
    prompts: Mapping[str, Figures]
    measurements: Mapping[str, PromptMeasurement]


def summarise(
    measurements: Mapping[str, PromptMeasurement], baseline: Mapping[str, PromptMeasurement] | None = None
) -> tuple[Figures, dict[str, Figures]]:
    """The figures over all prompts, and those of each prompt.

    Raises:
        ConfigError: the baseline holds other prompts, or another number of images of one.
    """
    measured = list(measurements.values())
    intervals, overall_interval = bootstrap_means([item.rewards for item in measured], seed=_BOOTSTRAP_SEED)
    groups = [*([item] for item in measured), measured]
    figures = [
        _described(group, Figures(num_images=0, reward_mean=mean, reward_low=low, reward_high=high))
        for group, (mean, low, high) in zip(groups, [*intervals, overall_interval], strict=True)
    ]
    if baseline is not None:
        figures = _compared(figures, measured, _matching(measurements, baseline))
    return figures[-1], dict(zip(measurements, figures[:-1], strict=True))


def _described(group: Sequence[PromptMeasurement], figures: Figures) -> Figures:
    """All figures but those of the reward itself, over a group of prompts."""
    num_images = sum(len(item.rewards) for item in group)
    correct = [item.correct for item in group if item.correct is not None]
    check_rewards = [item.check_rewards for item in group if item.check_rewards is not None]
    check_correct = [item.check_correct for item in group if item.check_correct is not None]
    diversities = [item.diversity for item in group if item.diversity is not None]
    figures = replace(
        figures,
        num_images=num_images,
        check_reward_mean=float(np.concatenate(check_rewards).mean()) if check_rewards else None,
        check_correct=float(np.concatenate(check_correct).mean()) if check_correct else None,
        diversity=float(np.mean(diversities)) if diversities else None,
    )
    if not correct:
        return figures
    share, low, high = wilson(int(np.concatenate(correct).sum()), num_images)
    return replace(figures, correct=share, correct_low=low, correct_high=high)


def _matching(
    measurements: Mapping[str, PromptMeasurement], baseline: Mapping[str, PromptMeasurement]
) -> list[PromptMeasurement]:
    for prompt, item in measurements.items():
        if prompt not in baseline or len(baseline[prompt].rewards) != len(item.rewards):
            raise ConfigError(
                f"the baseline holds other images of {prompt!r}: evaluate it again like the policy"
            )
    return [baseline[prompt] for prompt in measurements]


def _compared(
    figures: Sequence[Figures], after: Sequence[PromptMeasurement], before: Sequence[PromptMeasurement]
) -> list[Figures]:
    """`figures` (of each prompt, then of all) with win rate and gain over the images of the same seeds."""
    new = [item.rewards for item in after]
    old = [item.rewards for item in before]
    gains, overall_gain = bootstrap_means(
        [a - b for a, b in zip(new, old, strict=True)], seed=_BOOTSTRAP_SEED
    )
    wins = [win_rate(a, b) for a, b in zip(new, old, strict=True)]
    wins.append(win_rate(np.concatenate(new), np.concatenate(old)))
    return [
        replace(
            figure,
            win_rate=win.value,
            win_rate_low=win.low,
            win_rate_high=win.high,
            gain=gain.value,
            gain_low=gain.low,
            gain_high=gain.high,
        )
        for figure, win, gain in zip(figures, wins, [*gains, overall_gain], strict=True)
    ]
