"""Figures of a data set: hand-computed cases, and scipy as an independent count of correlations."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppod_data.dataset.dataset import create
from ppod_data.inspect.overview import agreement, histogram, overview, sparkline
from tests.support.tables import add_pairs, add_scores
from tests.support.toy import make_dataset, make_spec

FLOATS = st.floats(-1e6, 1e6, allow_nan=False)


def test_figures_by_hand(tmp_path: Path) -> None:
    """Two prompts of three images; the second scorer swaps images 0 and 1, and fails on 5."""
    dataset = make_dataset(tmp_path / "data")
    add_scores(dataset, "a", [1, 2, 3, 1, 2, 3])
    add_scores(dataset, "b", [2, 1, 3, 1, 2, None])
    add_pairs(dataset, "people", [(1, 0), (2, 0), (5, 3), (3, 4)])
    figures = overview(dataset)
    assert figures["num_samples"] == 6 and figures["missing_shards"] == []
    a, b = figures["scores"]["a"], figures["scores"]["b"]
    assert (a["mean"], a["median"], a["min"], a["max"], a["failed"]) == (2, 2, 1, 3, 0)
    assert (b["rows"], b["failed"], b["mean"]) == (6, 1, 1.8)
    assert sum(a["histogram"]["counts"]) == 6 and a["histogram"]["edges"][0] == 1
    [both] = figures["agreement"]
    assert (both["a"], both["b"], both["rows"]) == ("a", "b", 5)
    assert both["compared"] == 4 and both["same_order"] == 3 / 4, "of (0,1) (0,2) (1,2) (3,4), (0,1) differs"
    people = figures["pairs"]["people"]
    assert (people["rows"], people["prompts"], people["sources"]) == (4, 2, ["reward:a"])
    assert people["agrees_with"]["a"] == {"share": 3 / 4, "pairs": 4}
    assert people["agrees_with"]["b"] == {"share": 1 / 3, "pairs": 3}, (
        "the pair of the failed image is left out"
    )
    json.dumps(figures, allow_nan=False)


def test_a_data_set_without_samples_has_figures(tmp_path: Path) -> None:
    figures = overview(create(tmp_path / "data", make_spec()))
    assert figures["num_samples"] == 0 and figures["agreement"] == [] and figures["missing_shards"] == [0, 1]


def test_all_scores_failed_or_equal(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    add_scores(dataset, "failed", [None] * 6)
    add_scores(dataset, "equal", [1.5] * 6)
    figures = overview(dataset)
    assert figures["scores"]["failed"]["mean"] is None
    assert figures["scores"]["equal"]["histogram"] == {"edges": [1.5, 1.5], "counts": [6]}
    [both] = figures["agreement"]
    assert both["pearson"] is None and both["same_order"] is None
    json.dumps(figures, allow_nan=False)


@given(st.lists(st.tuples(FLOATS, FLOATS, st.integers(0, 2)), min_size=3, max_size=30))
def test_correlations_are_of_values_and_of_ranks_and_order_is_a_count_of_pairs(
    rows: list[tuple[float, float, int]],
) -> None:
    a, b = (np.round(np.array([row[i] for row in rows]), 3) for i in (0, 1))
    prompts = np.array([row[2] for row in rows])
    found = agreement(a, b, prompts)
    if found["spearman"] is not None:
        ranks = [(x[:, None] > x).sum(1) - (x[:, None] < x).sum(1) for x in (a, b)]
        assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)
        assert found["pearson"] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-6)
    pairs = [(i, j) for i in range(len(a)) for j in range(i) if prompts[i] == prompts[j]]
    known = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in pairs]
    compared = sum(value != 0 for value in known)
    assert found["compared"] == compared
    assert found["same_order"] == (sum(value > 0 for value in known) / compared if compared else None)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=50))
def test_a_histogram_counts_every_finite_value(values: list[float]) -> None:
    found = histogram(np.array(values, np.float64))
    assert sum(found["counts"]) == sum(np.isfinite(values))
    assert len(sparkline(found["counts"])) == len(found["counts"])


def test_a_sparkline_shows_every_value() -> None:
    assert sparkline([0, 1, 500, 1000]) == " ▁▄█" and sparkline([]) == ""
