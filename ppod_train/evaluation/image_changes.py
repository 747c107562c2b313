"""Comparison of an evaluation's images with the baseline's on the same seeds, by statistics that no reward computes.

>>> noise = np.random.default_rng(0).random((8, len(STATISTICS)))
>>> images = [ImageSamples(noise, np.zeros((8, 8, 8, 3), np.uint8))]
>>> image_changes(images, images)["edges"].change
0.0

Shapes: K images of a prompt.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ppod_data.support.statistics import Interval
from ppod_train.evaluation.image_statistics import STATISTICS, Pixels, distances, features
from ppod_train.evaluation.statistics import FloatArray, distances_to_others, mean_interval

DIVERSITY, DISTANCE = "diversity", "distance"


class ImageSamples(NamedTuple):
    """Statistics and thumbnails of the K images of one prompt."""

    statistics: FloatArray
    """[K, 5]"""
    thumbnails: Pixels
    """uint8 [K, 8, 8, 3]"""


@dataclass(frozen=True, kw_only=True)
class ImageChange:
    """One statistic over all images of an evaluation, and its change from the baseline on the same seeds.

    The distance to the baseline's images is a change from 0.
    """

    mean: float
    spread: float | None = None
    """Standard deviation over the images of a prompt, pooled over prompts; None below two images.

    The diversity has none below three images, because two images have a single distance.
    """
    change: float | None = None
    """Mean paired difference, with its 95 % interval by Student's t over the seeds; None without a baseline."""
    change_low: float | None = None
    change_high: float | None = None
    effect: float | None = None
    """`change` in units of the baseline's spread; None if that is 0 or unknown."""


def image_changes(
    after: Sequence[ImageSamples] | None, before: Sequence[ImageSamples] | None = None
) -> dict[str, ImageChange]:
    """Return the changes of every statistic, of the diversity and of the distance to the baseline's images.

    Args:
        after: images of each prompt; None if they were not measured.
        before: the baseline's images of the same seeds; None without a baseline.
    """
    if after is None:
        return {}
    columns = {name: [item.statistics[:, index] for item in after] for index, name in enumerate(STATISTICS)}
    old = None
    if before is not None:
        old = {name: [item.statistics[:, index] for item in before] for index, name in enumerate(STATISTICS)}
    changes = {name: _change(values, old[name] if old else None) for name, values in columns.items()}
    if all(len(item.thumbnails) > 1 for item in after):
        changes[DIVERSITY] = _diversity(after, before)
    if before is not None:
        apart = [distances(new.thumbnails, item.thumbnails) for new, item in zip(after, before, strict=True)]
        interval = mean_interval(apart)
        changes[DISTANCE] = ImageChange(
            mean=_mean(apart),
            spread=_spread(apart),
            change=interval.value,
            change_low=interval.low,
            change_high=interval.high,
        )
    return changes


def _change(after: Sequence[FloatArray], before: Sequence[FloatArray] | None) -> ImageChange:
    if before is None:
        return ImageChange(mean=_mean(after), spread=_spread(after))
    interval = mean_interval([new - old for new, old in zip(after, before, strict=True)])
    return _compared(after, before, interval)


def _diversity(after: Sequence[ImageSamples], before: Sequence[ImageSamples] | None) -> ImageChange:
    """Compare the mean distance of an image to the prompt's other images, whose mean is the diversity.

    Every distance counts for both of its images, so their spread describes half of the error of a mean over pairs
    (Sen 1960), and less of few images. The jackknife, which leaves one image out at a time, gives an interval that is
    2 (K − 1) / (K − 2) times as wide as for independent values. Two images have a single distance, and the distances
    of different prompts are independent.
    """
    new = [_distances(item) for item in after]
    if before is None:
        return ImageChange(mean=_mean(new), spread=_spread(new))
    old = [_distances(item) for item in before]
    interval = mean_interval([one - other for one, other in zip(new, old, strict=True)])
    fewest = min(len(group) for group in new)
    return _compared(new, old, interval if fewest == 1 else _wider(interval, 2 * (fewest - 1) / (fewest - 2)))


def _distances(item: ImageSamples) -> FloatArray:
    """Return the mean distance [K] of each image of a prompt to the others; of two images their distance [1].

    Repeated for both images, it would have a spread of 0, and its change an interval without width.
    """
    values = distances_to_others(features(item.thumbnails))
    return values[:1] if len(values) == 2 else values


def _wider(interval: Interval, factor: float) -> Interval:
    value, low, high = interval.value, interval.low, interval.high
    if value is None or low is None or high is None:
        return interval
    return Interval(value, value + factor * (low - value), value + factor * (high - value))


def _compared(after: Sequence[FloatArray], before: Sequence[FloatArray], interval: Interval) -> ImageChange:
    spread = _spread(before)
    return ImageChange(
        mean=_mean(after),
        spread=_spread(after),
        change=interval.value,
        change_low=interval.low,
        change_high=interval.high,
        effect=interval.value / spread if spread and interval.value is not None else None,
    )


def _mean(groups: Sequence[FloatArray]) -> float:
    return float(np.concatenate(groups).mean())


def _spread(groups: Sequence[FloatArray]) -> float | None:
    """Return the standard deviation within groups, pooled."""
    freedom = sum(len(group) - 1 for group in groups if len(group) > 1)
    if not freedom:
        return None
    # The mean of equal values is rounded, so their deviation may be a rounding error instead of 0
    varied = [group for group in groups if len(group) and np.ptp(group) > 0]
    squares = sum(float(np.sum((group - group.mean()) ** 2)) for group in varied)
    return math.sqrt(squares / freedom)
