"""Intervals, win rates and diversity against values worked out by hand or in closed form."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppod_train import statistics
from ppod_train.statistics import bootstrap_means, mean_pairwise_distance, wilson, win_rate

samples = st.lists(st.floats(-100, 100), min_size=1, max_size=40).map(
    lambda values: np.array(values, dtype=np.float64)
)


def test_wilson_interval_of_a_worked_example() -> None:
    share, low, high = wilson(8, 10)
    assert share == 0.8
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)


def test_wilson_interval_at_the_ends() -> None:
    z2 = 1.959963984540054**2
    nothing, everything = wilson(0, 20), wilson(20, 20)
    assert (nothing.value, nothing.low, everything.value, everything.high) == (0.0, 0.0, 1.0, 1.0)
    assert nothing.high == pytest.approx(z2 / (20 + z2))
    assert everything.low == pytest.approx(20 / (20 + z2))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, 2 * n), st.just(n))))
def test_wilson_interval_holds_its_share_and_mirrors(counts: tuple[int, int]) -> None:
    halves, trials = counts
    share, low, high = wilson(halves / 2, trials)
    mirrored = wilson(trials - halves / 2, trials)
    assert 0 <= low <= share <= high <= 1
    assert mirrored.low == pytest.approx(1 - high) and mirrored.high == pytest.approx(1 - low)


def test_bootstrap_interval_of_a_large_sample_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=1000)
    _, (mean, low, high) = bootstrap_means([values], seed=1)
    half = 1.96 * values.std() / math.sqrt(1000)
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(mean - half, abs=0.15 * half)
    assert high == pytest.approx(mean + half, abs=0.15 * half)


def test_bootstrap_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(7)
    draws = [rng.exponential(1.0, size=60) for _ in range(200)]
    intervals, _ = bootstrap_means(draws, seed=0)
    covered = sum(low <= 1.0 <= high for _, low, high in intervals)
    assert 0.88 <= covered / 200 <= 0.99


def test_overall_interval_is_not_widened_by_prompts_that_differ() -> None:
    easy, hard = np.array([10.0, 10.0, 10.0]), np.array([0.0, 0.0, 0.0])
    intervals, overall = bootstrap_means([easy, hard], seed=0)
    assert overall == (5.0, 5.0, 5.0)
    assert intervals == [(10.0, 10.0, 10.0), (0.0, 0.0, 0.0)]


def test_overall_mean_weighs_images_not_prompts() -> None:
    _, overall = bootstrap_means([np.array([1.0]), np.array([4.0, 4.0, 4.0])], seed=0)
    assert overall.value == 3.25


def test_groups_are_resampled_independently() -> None:
    values = np.random.default_rng(0).normal(size=400)
    single, overall = bootstrap_means([values, values], seed=0)
    width = single[0].high - single[0].low
    assert overall.high - overall.low == pytest.approx(width / math.sqrt(2), rel=0.1)


@settings(max_examples=30)
@given(samples, st.integers(0, 2**32))
def test_bootstrap_interval_stays_in_range_and_repeats(values: np.ndarray, seed: int) -> None:
    _, interval = bootstrap_means([values], seed=seed)
    assert values.min() - 1e-9 <= interval.low <= interval.high <= values.max() + 1e-9
    assert bootstrap_means([values], seed=seed)[1] == interval


def test_chunks_do_not_change_how_many_resamples_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CHUNK_ELEMENTS", 70)
    means = statistics.resampled_means(np.arange(9.0), np.random.default_rng(0))
    assert means.shape == (statistics.NUM_RESAMPLES,)


def test_win_rate_counts_ties_as_halves() -> None:
    after, before = np.array([2.0, 1.0, 0.0, 5.0]), np.array([1.0, 1.0, 1.0, 4.0])
    assert win_rate(after, before).value == 2.5 / 4
    assert win_rate(before, before).value == 0.5


@given(samples)
def test_win_rates_of_both_sides_add_to_one(values: np.ndarray) -> None:
    other = values[::-1].copy()
    assert win_rate(values, other).value + win_rate(other, values).value == pytest.approx(1.0)


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
