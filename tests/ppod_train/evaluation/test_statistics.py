"""Intervals, win rates and diversity against values worked out by hand or in closed form."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppod_data.support.statistics import Interval
from ppod_train.evaluation import statistics
from ppod_train.evaluation.statistics import FEWEST, mean_interval, mean_pairwise_distance, win_rate

samples = st.lists(st.floats(-100, 100), min_size=1, max_size=40).map(
    lambda values: np.array(values, dtype=np.float64)
)


def test_interval_of_one_sample_is_student_s() -> None:
    """1, 2, 3, 4, 5: standard error √(2.5 / 5), t of 4 degrees of freedom 2.776445 (printed tables)."""
    mean, low, high = astuple(mean_interval([np.arange(1.0, 6.0)]))
    assert mean == 3
    assert (low, high) == pytest.approx(
        (3 - 2.776445 * math.sqrt(0.5), 3 + 2.776445 * math.sqrt(0.5)), abs=1e-6
    )


@pytest.mark.parametrize("count", [0, 1, 4])
def test_few_images_have_no_interval(count: int) -> None:
    mean, low, high = astuple(mean_interval([np.arange(float(count))]))
    assert (low, high) == (None, None)
    assert mean == (None if count == 0 else (count - 1) / 2)


@pytest.mark.parametrize(("count", "least"), [(5, 0.93), (8, 0.93), (64, 0.93)])
def test_intervals_of_normal_values_cover_the_truth(count: int, least: float) -> None:
    rng = np.random.default_rng(7)
    intervals = [mean_interval([rng.normal(size=count)]) for _ in range(1000)]
    covered = sum(
        bool(one.low <= 0 <= one.high) for one in intervals if one.low is not None and one.high is not None
    )
    assert least <= covered / 1000 <= 0.97


def test_intervals_over_prompts_of_two_images_cover_the_truth() -> None:
    """As with a few images of many prompts, whose means differ by far more than their images."""
    rng = np.random.default_rng(3)
    means = rng.normal(scale=100, size=6)
    covered = 0
    for _ in range(1000):
        _, low, high = astuple(mean_interval([mean + rng.normal(size=2) for mean in means]))
        assert low is not None and high is not None
        covered += low <= means.mean() <= high
    assert 0.93 <= covered / 1000 <= 0.985


def test_overall_interval_is_not_widened_by_prompts_that_differ() -> None:
    easy, hard = np.array([10.0, 10.0, 10.0]), np.array([0.0, 0.0, 0.0])
    assert mean_interval([easy, hard]) == Interval(5.0, 5.0, 5.0)


def test_single_images_are_taken_together() -> None:
    """One image a prompt: the spread between the prompts stands for theirs, which is wide rather than narrow."""
    values = np.array([0.0, 1.0, 5.0, 9.0, 10.0])
    assert mean_interval(list(values[:, None])) == mean_interval([values])
    lone = mean_interval([np.array([3.0]), np.array([4.0, 4.0]), np.array([0.0, 1.0, 2.0])])
    together = mean_interval([np.array([3.0, 4.0, 4.0]), np.array([0.0, 1.0, 2.0])])
    assert astuple(lone) == pytest.approx(astuple(together))


def test_overall_mean_weighs_images_not_prompts() -> None:
    assert mean_interval([np.array([1.0]), np.array([4.0, 4.0, 4.0])]).value == 3.25


@settings(max_examples=50)
@given(samples)
def test_interval_holds_its_mean(values: np.ndarray) -> None:
    mean, low, high = astuple(mean_interval([values]))
    assert mean == pytest.approx(values.mean())
    assert (low is None) == (len(values) < FEWEST)
    assert low is None or high is None or low <= mean <= high


def test_win_rate_counts_ties_as_halves() -> None:
    after, before = np.array([2.0, 1.0, 0.0, 5.0]), np.array([1.0, 1.0, 1.0, 4.0])
    assert win_rate(after, before).value == 2.5 / 4
    assert win_rate(before, before).value == 0.5


@given(samples)
def test_win_rates_of_both_sides_add_to_one(values: np.ndarray) -> None:
    other = values[::-1].copy()
    shares = win_rate(values, other).value, win_rate(other, values).value
    assert None not in shares and sum(filter(None, shares)) == pytest.approx(1.0)


def test_pairwise_distance_by_hand() -> None:
    features = np.array([[0, 0], [3, 4], [0, 0]], dtype=np.float32)
    assert mean_pairwise_distance(features) == pytest.approx(2 * math.sqrt(25 / 2) / 3)


def test_pairwise_distance_of_identical_images_is_zero_and_of_one_image_unknown() -> None:
    assert mean_pairwise_distance(np.full((5, 192), 0.3, dtype=np.float32)) == pytest.approx(0.0, abs=1e-9)
    assert mean_pairwise_distance(np.zeros((1, 4), dtype=np.float32)) is None


@settings(max_examples=30)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 1000), st.integers(1, 40))
def test_pairwise_distance_equals_the_double_loop(images: int, size: int, seed: int, chunk: int) -> None:
    features = np.random.default_rng(seed).random((images, size), dtype=np.float32)
    slow = [
        math.sqrt(float(np.mean((features[i].astype(float) - features[j]) ** 2)))
        for i in range(images)
        for j in range(i + 1, images)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_CHUNK_ELEMENTS", chunk)
        assert mean_pairwise_distance(features) == pytest.approx(float(np.mean(slow)), abs=1e-7)
