"""Agreement and scores of people, against cases worked out by hand or printed by others."""

import math
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.exclusions import exclude
from ppod_data.errors import ConfigError
from ppod_data.format.tables import SCORES, read_table
from ppod_data.integrity.verify import verify
from ppod_data.labels.agreement import (
    fit_temperature,
    fleiss_kappa,
    krippendorff_alpha,
    people_agreement,
    raw_agreement,
    reward_agreement,
)
from ppod_data.labels.bradley_terry import PRIOR_PRECISION, fit, write_scores
from ppod_data.labels.importing import import_labels
from ppod_data.labels.votes import Votes
from ppod_data.pairs.rank import rank
from tests.support.label_cases import sample_ids, write_lines
from tests.support.toy import make_dataset

# Fourteen raters, ten subjects, five categories: the example of Wikipedia's article on Fleiss' kappa.
FLEISS = np.array(
    [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ],
    np.float64,
)


def votes(*rows: tuple[int, int, float, int]) -> Votes:
    a, b, label, people = zip(*rows, strict=True)
    return Votes(
        a=np.array(a, np.int32),
        b=np.array(b, np.int32),
        label=np.array(label, np.float64),
        votes=np.array(people, np.int32),
    )


def test_fleiss_kappa_of_the_known_example() -> None:
    kappa = fleiss_kappa(FLEISS)
    assert kappa is not None and round(kappa, 3) == 0.210


def test_krippendorff_alpha_of_the_known_examples() -> None:
    """Krippendorff (2011), "Computing Krippendorff's alpha-reliability": B, nominal data of two observers and ten
    units, 0.095; and C, with four observers and missing data, 0.743."""
    first, second = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    binary = np.zeros((10, 2))
    for answers in (first, second):
        for unit, answer in enumerate(answers):
            binary[unit, answer] += 1
    alpha = krippendorff_alpha(binary)
    assert alpha is not None and round(alpha, 3) == 0.095
    data = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    counts = np.zeros((12, 5))
    for one in data:
        for unit, answer in enumerate(one):
            if answer is not None:
                counts[unit, answer - 1] += 1
    alpha = krippendorff_alpha(counts[counts.sum(1) >= 2])
    assert alpha is not None and round(alpha, 3) == 0.743


@given(
    st.lists(
        st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(lambda row: sum(row) >= 2), min_size=1
    )
)
def test_krippendorff_alpha_is_that_of_the_reference_package(counts: list[list[int]]) -> None:
    alpha = krippendorff_alpha(np.array(counts, np.float64))
    if alpha is None:
        assert np.count_nonzero(np.sum(counts, axis=0)) == 1, "every answer is the same"
    else:
        reference = krippendorff.alpha(value_counts=np.array(counts), level_of_measurement="nominal")
        assert alpha == pytest.approx(reference, abs=1e-12)


def test_without_disagreement_or_repeats_nothing_is_made_up() -> None:
    same = np.array([[2.0, 0.0], [3.0, 0.0]])
    assert (raw_agreement(same), fleiss_kappa(same), krippendorff_alpha(same)) == (1.0, None, None)
    none = np.zeros((0, 3))
    assert (raw_agreement(none), fleiss_kappa(none), krippendorff_alpha(none)) == (None, None, None)


def test_people_by_hand() -> None:
    """Pair (0, 1): anna and bert for 0, cleo a tie; anna again, for 1. (2, 3): one vote. (4, 5): 3 against 1."""
    rows = [(0, 1, 1.0, 1), (1, 0, 0.0, 1), (0, 1, 0.5, 1), (0, 1, 0.0, 1), (2, 3, 0.0, 1), (4, 5, 0.75, 4)]
    found = people_agreement(votes(*rows), ["anna", "bert", "cleo", "anna", None, None])
    assert (found.num_labels, found.num_units, found.num_annotators) == (6, 3, 3)
    assert found.num_units_repeated == 2
    assert found.tie_rate == pytest.approx(1 / 6)
    # Of 3 answers 2 agree: 2 of 6 ordered pairs; of 4 answers 3 agree: 6 of 12.
    assert found.raw == pytest.approx(8 / 18)
    assert found.self_agreement == 0.0
    # First image preferred: 1 + 0 + 0 + 0 + 3 of 8 votes.
    assert found.first_preferred is not None
    assert found.first_preferred.value == pytest.approx(4 / 8) and found.num_preferences == 8


def test_a_reward_beside_people() -> None:
    rows = [(0, 1, 1.0, 1), (2, 3, 1.0, 1), (4, 5, 1.0, 1), (6, 7, 1.0, 1), (8, 9, 0.5, 1), (10, 11, 1.0, 1)]
    scores = np.array([2.0, 1.0, 3.0, 1.0, 0.0, 1.0, 5.0, 5.0, 1.0, 0.0, 1.0, np.nan])
    found = reward_agreement(votes(*rows), scores, "r")
    assert (found.num_pairs, found.num_unscored, found.num_reward_ties) == (4, 1, 1)
    assert found.accuracy is not None and found.accuracy.value == pytest.approx(2 / 3)
    assert found.kendall_tau == pytest.approx((2 - 1) / math.sqrt(4 * 3))
    assert sum(one.count for one in found.calibration) == 4


@given(st.floats(0.05, 20))
def test_the_temperature_of_exact_labels_is_found(temperature: float) -> None:
    margin = np.linspace(-2, 3, 41)
    assert fit_temperature(margin, 1 / (1 + np.exp(-margin / temperature))) == pytest.approx(
        temperature, rel=1e-6
    )


@given(st.lists(st.tuples(st.integers(-50, 50), st.sampled_from([0.5, 0.75, 1.0])), min_size=1, max_size=30))
def test_the_temperature_is_where_the_cross_entropy_is_flat(rows: list[tuple[float, float]]) -> None:
    """Bisection, which is slower, ends at the same number."""
    margin, label = (np.array(rows, np.float64) / (10, 1)).T
    temperature = fit_temperature(margin, label)
    if temperature is None:
        return

    def slope(inverse: float) -> float:
        return float((margin * (1 / (1 + np.exp(-np.clip(margin * inverse, -700, 700))) - label)).sum())

    low, high = 0.5 / temperature, 2 / temperature
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    assert temperature == pytest.approx(2 / (low + high), rel=1e-9)


def test_a_reward_that_is_never_or_always_wrong_has_no_temperature() -> None:
    margin = np.array([1.0, 2.0])
    assert fit_temperature(margin, np.array([1.0, 1.0])) is None
    assert fit_temperature(-margin, np.array([1.0, 1.0])) is None
    assert fit_temperature(np.zeros(2), np.array([1.0, 1.0])) is None


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(1, 5)
        ),
        min_size=1,
        max_size=25,
    )
)
def test_scores_are_where_the_gradient_is_zero(rows: list[tuple[int, int, float, int]]) -> None:
    rows = [row for row in rows if row[0] != row[1]] or [(0, 1, 1.0, 1)]
    scores = fit(votes(*rows), 5)
    gradient = -PRIOR_PRECISION * scores
    for a, b, label, weight in rows:
        pull = weight * (label - 1 / (1 + math.exp(scores[b] - scores[a])))
        gradient[a] += pull
        gradient[b] -= pull
    assert np.abs(gradient).max() < 1e-7
    assert scores.sum() == pytest.approx(0, abs=1e-7)


def test_scores_of_many_votes_are_log_odds() -> None:
    """Two images, 3 of 4 prefer the first: σ(s_0 - s_1) nears 3/4 as the votes outweigh the prior."""
    scores = fit(votes((0, 1, 0.75, 4_000_000)), 2)
    assert scores[0] - scores[1] == pytest.approx(math.log(3), abs=1e-5)


def test_people_s_scores_are_a_score_table_like_any_other(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    s = sample_ids(dataset)
    rows = [{"a": s[0], "b": s[1], "label": "a"}, {"a": s[1], "b": s[2], "label": "a"}]
    import_labels(dataset, write_lines(tmp_path / "l.jsonl", rows), format="table", name="n")
    done = write_scores(dataset, "n", name="people")
    assert (done.num_scored, done.num_unjudged) == (3, 3)
    scores = Dataset.open(dataset.root).scores("people")["score"].to_pylist()
    assert scores[0] > scores[1] > scores[2] and scores[3:] == [None] * 3
    assert write_scores(dataset, "n", name="people") == done
    assert rank(dataset, reward="people", name="p", strategy="all").num_pairs == 3
    import_labels(dataset, write_lines(tmp_path / "l.jsonl", rows[:1]), format="table", name="m")
    with pytest.raises(ConfigError, match="made otherwise: give another name"):
        write_scores(dataset, "m", name="people")


@pytest.mark.parametrize("excluded", [0, 1, 5])
def test_beside_an_excluded_image_every_other_has_its_own_score(tmp_path: Path, excluded: int) -> None:
    dataset = make_dataset(tmp_path / "data")
    s = sample_ids(dataset)
    wins = [(s[first], s[first + other]) for first in (0, 3) for other in (1, 2)]
    rows = [{"a": a, "b": b, "label": "a"} for a, b in wins]
    import_labels(dataset, write_lines(tmp_path / "l.jsonl", rows), format="table", name="n")
    exclude(dataset.root, dataset.spec, [s[excluded]], [], "taken down")
    dataset = Dataset.open(dataset.root)
    done = write_scores(dataset, "n", name="people")
    left = [pair for pair in wins if s[excluded] not in pair]
    judged = {name for pair in left for name in pair}
    assert (done.num_scored, done.num_unjudged) == (len(judged), 5 - len(judged))

    parts = [
        read_table(path, SCORES) for path in sorted((dataset.root / "scores" / "people").glob("*.parquet"))
    ]
    table = {row["sample_id"]: row for part in parts for row in part.to_pylist()}
    assert list(table) == s and table[s[excluded]]["status"] == "failed: excluded"
    assert {name for name, row in table.items() if row["score"] is not None} == judged
    assert all(table[winner]["score"] > 0 > table[loser]["score"] for winner, loser in left)
    assert verify(dataset.root, read_data=1).findings == []
    assert write_scores(dataset, "n", name="people") == done
    assert rank(dataset, reward="people", name="p", strategy="all").num_pairs >= len(left)
