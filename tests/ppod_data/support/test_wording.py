"""Numbers as people read them: one precision a column, no interval that reads as a point, no digit for nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppod_data.support.formatting import Precision, along, number, precision, spread

FINITE = st.floats(-1e6, 1e6, allow_subnormal=False)


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (-3.2612, -3.49, -3.01, "−3.26 (−3.49…−3.01)"),
        (0.24, -0.0081, 0.53, "0.24 (−0.01…0.53)"),
        (-0.03, -0.10, -2.8e-5, "−0.03000 (−0.10000…−0.00003)"),
        (-3.5e-18, -2.0e-3, 2.0e-3, "0.0000 (−0.0020…0.0020)"),
        (-0.8612, -0.8634, -0.8599, "−0.8612 (−0.8634…−0.8599)"),
        (1523.2, 1400.0, 1650.0, "1523 (1400…1650)"),
        (2.0, 2.0, 2.0, "2.00 (2.00…2.00)"),
        (2.0, None, None, "2.00"),
        (1.5e-9, 1.0e-9, 2.0e-9, "1.5e−9 (1.0e−9…2.0e−9)"),
        (None, None, None, "–"),
    ],
)
def test_an_interval_sets_the_digits(value: float, low: float, high: float, text: str) -> None:
    assert precision([value], [(low, high)]).with_interval(value, low, high) == text


@given(FINITE, st.floats(1e-7, 1e6))
def test_an_interval_never_reads_as_a_point(low: float, width: float) -> None:
    high = low + width
    form = precision([low], [(low, high)])
    if high - low > 1e-6 * max(abs(low), abs(high)):
        assert form.number(low) != form.number(high)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00047, "0.00047"),
        (0.0047, "0.0047"),
        (3.8e-8, "3.8e−8"),
        (0.5, "0.500"),
        (1234.5, "1234"),
        (0.0, "0.000"),
    ],
)
def test_a_lone_number_shows_two_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_no_minus_before_a_zero() -> None:
    assert Precision(2).number(-0.001) == "0.00"


@given(st.floats(1e-9, 1e9), st.integers(1, 5), st.booleans())
def test_ticks_never_read_alike(step: float, factor: int, share: bool) -> None:
    step = factor * 10.0 ** math.floor(math.log10(step))
    texts = [along(step, 10 * step, share=share)(place * step) for place in range(-5, 11)]
    assert len(set(texts)) == len(texts)


def test_scores_of_a_small_range_keep_their_digits() -> None:
    assert spread(0.2512, 0.2789).number(0.26) == "0.260"
    assert spread(-16.0, 0.0).number(-3.0) == "−3.00"
    assert spread(-8.0009, -0.00004).number(-4.50013) == "−4.50"


def test_a_gain_of_rounding_adds_no_digits() -> None:
    """As of a policy that is still its start."""
    rewards, gain = (-6.09124, -2.90879), (-1.2e-6, 2.1e-6)
    form = precision([-4.500016, 5e-7], [rewards, gain])
    assert form.with_interval(-4.500016, *rewards) == "−4.5 (−6.1…−2.9)" and form.number(5e-7) == "0.0"


@pytest.mark.parametrize("solved", [(-9.3e-5, -2e-6), (-0.0175, -0.0001)])
def test_a_prompt_that_is_solved_adds_no_digits(solved: tuple[float, float]) -> None:
    other = (-2.587, -1.694)
    form = precision([-4.6e-5, -2.1407], [solved, other])
    assert form.with_interval(-2.1407, *other) == "−2.14 (−2.59…−1.69)" and form.number(-4.6e-5) == "0.00"
