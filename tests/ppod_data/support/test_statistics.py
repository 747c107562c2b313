"""Wilson's interval against worked examples and its symmetries."""

from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppod_data.support.statistics import wilson


def test_wilson_interval_of_a_worked_example() -> None:
    share, low, high = astuple(wilson(8, 10))
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
    share, low, high = astuple(wilson(halves / 2, trials))
    mirrored = wilson(trials - halves / 2, trials)
    assert 0 <= low <= share <= high <= 1
    assert astuple(mirrored) == pytest.approx((1 - share, 1 - high, 1 - low))
