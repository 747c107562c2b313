"""Pairs: higher over lower within a prompt, ties and small margins counted, a pure function of the scores."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.format.tables import SCORES, write_table
from ppod_data.inspect.judge import judge_of_tables
from ppod_data.pairs.rank import Selection, rank, select_pairs
from ppod_data.pairs.reward_sum import RewardSum, win_rates
from ppod_data.rewards import load_reward
from ppod_data.scoring.score import score
from tests.support.toy import files, make_dataset

# Few distinct values, so that ties and equal margins happen.
SCORE = st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100))
STRATEGY = st.sampled_from(["random", "best-worst", "all"])
MARGIN = st.sampled_from([0.0, 0.5, 1.0, 2.5])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def looked_at(selection: Selection) -> int:
    return len(selection.chosen) + selection.num_ties + selection.num_below_margin


def as_set(selection: Selection) -> set[frozenset[int]]:
    pairs = zip(selection.chosen.tolist(), selection.rejected.tolist(), strict=True)
    return {frozenset(pair) for pair in pairs}


@given(st.lists(SCORE, max_size=12), STRATEGY, st.integers(1, 80), MARGIN, st.integers(0, 9))
def test_every_pair_is_a_preference_and_none_comes_twice(
    values: list[float], strategy: str, limit: int, min_margin: float, seed: int
) -> None:
    scores = np.array(values, np.float64)
    found = select_pairs(scores, strategy, None if strategy == "all" else limit, min_margin, generator(seed))
    assert (scores[found.chosen] - scores[found.rejected] > min_margin).all()
    assert len(as_set(found)) == len(found.chosen) == len(found.rejected)


@given(st.lists(SCORE, max_size=12), MARGIN)
def test_all_looks_at_every_pair(values: list[float], min_margin: float) -> None:
    found = select_pairs(np.array(values), "all", None, min_margin, generator())
    pairs = list(itertools.combinations(values, 2))
    assert looked_at(found) == len(pairs)
    assert found.num_ties == sum(a == b for a, b in pairs)
    assert len(found.chosen) == sum(abs(a - b) > min_margin for a, b in pairs)


@given(st.lists(SCORE, max_size=12), st.integers(1, 8), MARGIN)
def test_best_worst_pairs_the_ends_of_the_ranking(values: list[float], limit: int, min_margin: float) -> None:
    scores = np.array(values)
    found = select_pairs(scores, "best-worst", limit, min_margin, generator())
    number = min(limit, len(values) // 2)
    assert looked_at(found) == number
    ranked = sorted(values)
    expected = [(ranked[-1 - i], ranked[i]) for i in range(number)]
    usable = [(high, low) for high, low in expected if high - low > min_margin]
    assert list(zip(scores[found.chosen], scores[found.rejected], strict=True)) == usable
    assert len(set(found.chosen.tolist()) | set(found.rejected.tolist())) == 2 * len(usable)


@given(st.lists(SCORE, max_size=12), st.integers(1, 80), MARGIN, st.integers(0, 9))
def test_random_stops_at_the_number_or_when_none_is_left(
    values: list[float], limit: int, min_margin: float, seed: int
) -> None:
    found = select_pairs(np.array(values), "random", limit, min_margin, generator(seed))
    usable = sum(abs(a - b) > min_margin for a, b in itertools.combinations(values, 2))
    assert len(found.chosen) == min(limit, usable)
    if usable < limit:
        assert looked_at(found) == math.comb(len(values), 2)


def test_random_takes_every_pair_equally_often() -> None:
    scores = np.arange(6.0)
    counts = dict.fromkeys(itertools.combinations(range(6), 2), 0)
    draws = 3000
    for seed in range(draws):
        found = select_pairs(scores, "random", 5, 0.0, generator(seed))
        for low, high in zip(found.rejected.tolist(), found.chosen.tolist(), strict=True):
            counts[low, high] += 1
    expected = draws * 5 / len(counts)
    assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts.values())


def test_random_builds_no_list_of_all_pairs() -> None:
    found = select_pairs(np.arange(3_000_000.0), "random", 10, 0.0, generator())  # 4.5e12 pairs
    assert len(found.chosen) == 10


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two prompts, seven images each, in shards of four."""
    return make_dataset(tmp_path_factory.mktemp("pairs") / "data", num_images_per_prompt=7)


def write_scores(
    dataset: Dataset,
    values: list[float | None],
    *,
    name: str = "r",
    order: NDArray[np.int64] | None = None,
    **columns: str,
) -> None:
    """A score table with the given scores; None and NaN are failures. `order` shuffles rows within parts."""
    samples = dataset.samples(["sample_id", "image_pixels_sha256"])
    good = [value is not None and math.isfinite(value) for value in values]
    table = pa.table(
        {
            "sample_id": samples["sample_id"],
            "score": values,
            "scorer": [columns.get("scorer", "s")] * len(values),
            "revision": [columns.get("revision", "1")] * len(values),
            "image_pixels_sha256": samples["image_pixels_sha256"],
            "status": ["ok" if fine else "failed: test" for fine in good],
        },
        schema=SCORES,
    )
    table = table.take(np.arange(len(values)) if order is None else order)
    for shard, first in enumerate(range(0, len(values), 4)):
        write_table(dataset.root / "scores" / name / f"{shard:06d}.parquet", table.slice(first, 4))


def written(dataset: Dataset, name: str = "p") -> bytes:
    """The bytes of a pair table, which is removed."""
    path = dataset.root / "pairs" / f"{name}.parquet"
    data = path.read_bytes()
    path.unlink()
    return data


def distinct() -> list[float | None]:
    return [float(7 * k % 15) for k in range(14)]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.one_of(SCORE, st.none(), st.just(math.nan)), min_size=14, max_size=14),
    strategy=STRATEGY,
    min_margin=MARGIN,
    order=st.permutations(range(14)),
)
def test_the_table_holds_preferences_within_prompts(
    dataset: Dataset, values: list[float | None], strategy: str, min_margin: float, order: list[int]
) -> None:
    write_scores(dataset, values)
    options = {"reward": "r", "name": "p", "strategy": strategy, "min_margin": min_margin, "seed": 3}
    try:
        summary = rank(dataset, **options)
    except ConfigError as error:
        assert "no pair" in str(error)
        return
    table = dataset.pairs("p").to_pylist()
    samples = dataset.samples(["sample_id", "prompt_id"]).to_pylist()
    scores = {sample["sample_id"]: value for sample, value in zip(samples, values, strict=True)}
    prompts = {sample["sample_id"]: sample["prompt_id"] for sample in samples}
    for row in table:
        high, low = scores[row["chosen_id"]], scores[row["rejected_id"]]
        assert high is not None and low is not None
        assert high - low == row["margin"] > min_margin
        assert prompts[row["chosen_id"]] == prompts[row["rejected_id"]] == row["prompt_id"]
        assert (row["label"], row["source"], row["votes"]) == (1.0, "reward:r", None)
    assert len({row["pair_id"] for row in table}) == len(table) == summary.num_pairs
    unscored = [value is None or math.isnan(value) for value in values]
    assert summary.num_unscored == sum(unscored)
    if strategy == "all":
        sizes = [7 - sum(unscored[:7]), 7 - sum(unscored[7:])]
        looked_at = summary.num_pairs + summary.num_ties + summary.num_below_margin
        assert looked_at == sum(math.comb(size, 2) for size in sizes)
    before = written(dataset)
    write_scores(dataset, values, order=np.array(sorted(order, key=lambda row: row // 4)))
    rank(dataset, **options)
    assert written(dataset) == before


def test_the_seed_decides_random_pairs(dataset: Dataset) -> None:
    write_scores(dataset, distinct())
    tables = []
    for seed in (0, 0, 1):
        rank(dataset, reward="r", name="p", num_pairs_per_prompt=3, seed=seed)
        tables.append(written(dataset))
    assert tables[0] == tables[1] != tables[2]


def test_prompts_draw_from_streams_of_their_own(dataset: Dataset) -> None:
    write_scores(dataset, [float(k % 7) for k in range(14)])
    rank(dataset, reward="r", name="p", num_pairs_per_prompt=4)
    place = {
        sample: n % 7 for n, sample in enumerate(dataset.samples(["sample_id"])["sample_id"].to_pylist())
    }
    rows = [(place[row["chosen_id"]], place[row["rejected_id"]]) for row in dataset.pairs("p").to_pylist()]
    written(dataset)
    assert len(rows) == 8
    assert set(rows[:4]) != set(rows[4:])


def test_how_pairs_were_made_is_in_the_metadata(dataset: Dataset) -> None:
    write_scores(dataset, distinct(), scorer="judge", revision="7")
    summary = rank(dataset, reward="r", name="p", strategy="best-worst", min_margin=0.5)
    made = json.loads(dataset.pairs("p").schema.metadata[b"ppod"])
    written(dataset)
    counts = made.pop("counts")
    assert made == {
        "reward": "r",
        "scorer": "judge",
        "revision": "7",
        "fingerprint": dataset.spec.fingerprint,
        "strategy": "best-worst",
        "num_pairs_per_prompt": 1,
        "min_margin": 0.5,
        "seed": 0,
    }
    assert set(counts) == {
        *(
            "num_pairs",
            "num_ties",
            "num_below_margin",
            "num_unscored",
            "num_prompts",
            "num_prompts_without_pairs",
        ),
        "median_margin",
    }
    assert counts["num_pairs"] == summary.num_pairs == 2
    assert summary.median_margin == counts["median_margin"] == 12.0  # margins 14 and 10


@pytest.mark.parametrize("unit", [1.0, 1e-3, 4000.0])
def test_near_ties_are_counted_in_the_scores_own_unit(tmp_path: Path, unit: float) -> None:
    """One prompt of scores 0, 0.05, 10, 20: standard deviation 9.6, near a tie below 1 of these units."""
    dataset = make_dataset(tmp_path / "data", prompts=["a"], num_images_per_prompt=4)
    write_scores(dataset, [unit * value for value in (0.0, 0.05, 10.0, 20.0)])
    found = rank(dataset, reward="r", name="p", strategy="all")
    assert found.near_tie is not None and 0.5 <= found.near_tie / unit <= 2
    assert f"{found.near_tie:.0e}"[0] in "125" and found.near_tie == float(f"{found.near_tie:.0e}")
    assert (found.num_pairs, found.num_near_ties) == (6, 1)
    wide = rank(dataset, reward="r", name="wide", strategy="all", min_margin=found.near_tie)
    assert (wide.num_pairs, wide.num_near_ties) == (5, 0)


def test_the_same_call_again_changes_nothing_and_another_is_refused(dataset: Dataset) -> None:
    write_scores(dataset, distinct())
    first = rank(dataset, reward="r", name="p")
    before = files(dataset.root)
    assert rank(dataset, reward="r", name="p") == first
    with pytest.raises(
        ConfigError,
        match=r"256, not None; strategy 'random', not 'all': .* give another --name, such as --name p-2",
    ):
        rank(dataset, reward="r", name="p", strategy="all")
    assert files(dataset.root) == before
    write_scores(dataset, [value and value + 1 for value in reversed(distinct())])
    with pytest.raises(ConfigError, match="from other scores, labels or images"):
        rank(dataset, reward="r", name="p")
    written(dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "unknown"}, "no scores named 'unknown': give r,"),
        ({"strategy": "best"}, "strategy 'best' is unknown"),
        ({"num_pairs_per_prompt": 0}, "must be at least 1"),
        ({"strategy": "all", "num_pairs_per_prompt": 2}, "strategy all makes every pair"),
        ({"min_margin": -1.0}, "must be 0 or a positive number"),
        ({"min_margin": math.nan}, "must be 0 or a positive number"),
        ({"min_margin": 100.0}, "no pair in .*lower --min-margin"),
        ({"name": "a/b"}, "cannot name"),
    ],
)
def test_bad_options_write_nothing(dataset: Dataset, options: dict[str, object], message: str) -> None:
    write_scores(dataset, distinct())
    before = files(dataset.root)
    with pytest.raises(ConfigError, match=message):
        rank(dataset, **({"reward": "r", "name": "new"} | options))
    assert files(dataset.root) == before


def test_scores_of_other_images_are_refused(tmp_path: Path) -> None:
    one = make_dataset(tmp_path / "one")
    write_scores(one, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    part = one.root / "scores" / "r" / "000000.parquet"
    table = pa.parquet.read_table(part)
    for column, message in (
        ("image_pixels_sha256", "other images"),
        ("sample_id", "which is not in this shard here"),
    ):
        row = table.schema.get_field_index(column)
        write_table(part, table.set_column(row, column, pa.array(["0" * 32, *table[column].to_pylist()[1:]])))
        with pytest.raises(ConfigError, match=message):
            rank(one, reward="r", name="p")
    assert not list((one.root / "pairs").glob("*"))


def test_two_revisions_in_one_table_are_refused(tmp_path: Path) -> None:
    one = make_dataset(tmp_path / "one")
    write_scores(one, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    last = one.root / "scores" / "r" / "000001.parquet"
    kept = last.read_bytes()
    write_scores(one, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], revision="2")
    last.write_bytes(kept)
    with pytest.raises(ConfigError, match="mixes scorers or revisions"):
        rank(one, reward="r", name="p")


def test_soft_labels_are_the_chance_that_chosen_is_preferred(dataset: Dataset) -> None:
    write_scores(dataset, [float(i % 7) for i in range(14)], name="soft")
    rank(dataset, reward="soft", name="soft", strategy="all", label_temperature=2.0)
    table = dataset.pairs("soft")
    margins = np.array(table["margin"].to_pylist())
    assert len(set(margins)) > 3
    expected = 1 / (1 + np.exp(-margins / 2.0))
    assert np.array(table["label"].to_pylist()) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ConfigError, match=r"label_temperature 2\.0, not None"):
        rank(dataset, reward="soft", name="soft", strategy="all")
    with pytest.raises(ConfigError, match="label_temperature is 0"):
        rank(dataset, reward="soft", name="softer", strategy="all", label_temperature=0.0)


def test_a_weighted_sum_ranks_by_the_sum_and_is_recorded(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")  # two prompts of three images
    write_scores(data, [1.0, 2.0, 3.0, 1.0, 2.0, None], name="a")
    write_scores(data, [9.0, 0.0, 0.0, 0.0, -4.0, 5.0], name="b")
    done = rank(data, reward={"b": 0.5, "a": 2.0}, name="mixed", strategy="all")
    ids = data.samples(["sample_id"])["sample_id"].to_pylist()
    rows = {(row["chosen_id"], row["rejected_id"]): row["margin"] for row in data.pairs("mixed").to_pylist()}
    # sums: 6.5, 4.0, 6.0 and 2.0, 2.0, none
    assert rows == {(ids[0], ids[1]): 2.5, (ids[0], ids[2]): 0.5, (ids[2], ids[1]): 2.0}
    assert (done.num_ties, done.num_unscored) == (1, 1)
    table = data.pairs("mixed")
    made = json.loads(table.schema.metadata[b"ppod"])
    assert {name: one["weight"] for name, one in made["rewards"].items()} == {"a": 2.0, "b": 0.5}
    assert set(made["rewards"]["a"]) == {"weight", "scorer", "revision"} and "reward" not in made
    assert set(table["source"].to_pylist()) == {"reward:2.0*a+0.5*b"}


def test_the_order_of_the_summands_does_not_matter(tmp_path: Path) -> None:
    one, other = make_dataset(tmp_path / "one"), make_dataset(tmp_path / "other")
    for data, weights in ((one, {"a": 0.7, "b": 0.3}), (other, {"b": 0.3, "a": 0.7})):
        write_scores(data, [1.0, 2.0, 3.0, 1.0, 2.0, 2.5], name="a")
        write_scores(data, [9.0, 0.1, 0.2, 0.3, -4.0, 5.0], name="b")
        rank(data, reward=weights, name="mixed")
    assert files(one.root) == files(other.root)


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": math.nan}, {"a": math.inf}])
def test_a_weight_that_is_none_is_refused(dataset: Dataset, weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"reward|weight"):
        rank(dataset, reward=weights, name="mixed")


def margins(data: Dataset, name: str) -> dict[tuple[int, int], float]:
    """The margin of each pair, by the places of its images."""
    places = {key: place for place, key in enumerate(data.samples(["sample_id"])["sample_id"].to_pylist())}
    rows = data.pairs(name).to_pylist()
    return {(places[row["chosen_id"]], places[row["rejected_id"]]): row["margin"] for row in rows}


def test_a_sum_normalised_within_prompts_is_not_decided_by_the_wider_spread(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")  # two prompts of three images
    write_scores(data, [300.0, 100.0, 200.0, 7.0, 7.0, 7.0], name="wide")
    write_scores(data, [0.1, 0.3, 0.2, 0.0, 3.0, None], name="narrow")
    weights = {"wide": 0.4, "narrow": 0.6}
    rank(data, reward=weights, name="raw", strategy="all")
    assert set(margins(data, "raw")) == {(0, 1), (0, 2), (2, 1), (4, 3)}
    done = rank(data, reward=RewardSum(weights, "group"), name="group", strategy="all")
    found = margins(data, "group")
    unit = math.sqrt(1.5)  # of three equidistant scores: 1 / their standard deviation
    assert found == pytest.approx({(1, 0): 0.4 * unit, (2, 0): 0.2 * unit, (1, 2): 0.2 * unit, (4, 3): 1.2})
    assert (done.num_ties, done.num_unscored) == (0, 1)
    made = json.loads(data.pairs("group").schema.metadata[b"ppod"])
    assert made["normalise"] == "group"
    assert made["rewards"]["wide"]["spread"] == pytest.approx(math.sqrt(20_000 / 3))
    assert set(data.pairs("group")["source"].to_pylist()) == {"reward:0.6*z(narrow)+0.4*z(wide)"}


def test_normalised_scores_do_not_depend_on_unit_and_offset(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    values = [1.0, 2.5, 4.0, 0.0, 9.0, 1.0]
    write_scores(data, values, name="a")
    write_scores(data, [1000 * value - 7 for value in values], name="b")
    write_scores(data, [0.1] * 6, name="constant")
    for name, sums in (("one", {"a": 1.0}), ("other", {"b": 1.0}), ("both", {"a": 1.0, "constant": 5.0})):
        rank(data, reward=RewardSum(sums, "group"), name=name, strategy="all")
    assert margins(data, "one") == pytest.approx(margins(data, "other"))
    assert margins(data, "one") == margins(data, "both")


def test_opposite_rewards_of_equal_weight_tie_when_they_are_normalised(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    write_scores(data, [1.0, 2.0, 4.0, 1.0, 2.0, 3.0], name="a")
    write_scores(data, [-0.1, -0.2, -0.4, 1.0, 2.0, 3.0], name="b")
    done = rank(data, reward=RewardSum({"a": 1.0, "b": 1.0}, "group"), name="p", strategy="all")
    assert (done.num_pairs, done.num_ties) == (3, 3)


def test_win_rates_within_a_prompt_ignore_spread_and_outliers(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")  # two prompts of three images
    write_scores(data, [300.0, 100.0, 200.0, 7.0, 7.0, 7.0], name="wide")
    write_scores(data, [0.1, 0.3, 1e9, 0.0, 3.0, None], name="narrow")
    done = rank(data, reward=RewardSum({"wide": 0.4, "narrow": 0.6}, "wins"), name="p", strategy="all")
    found = margins(data, "p")  # 0.4, 0.3, 0.2 + 0.6 and 0.0 + 0.2, 0.6 + 0.2
    assert found == pytest.approx({(2, 0): 0.4, (2, 1): 0.5, (0, 1): 0.1, (4, 3): 0.6})
    assert (done.num_ties, done.num_unscored) == (0, 1)
    assert set(data.pairs("p")["source"].to_pylist()) == {"reward:0.6*wins(narrow)+0.4*wins(wide)"}
    assert json.loads(data.pairs("p").schema.metadata[b"ppod"])["normalise"] == "wins"


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12))
def test_a_win_rate_is_the_mean_over_all_comparisons(scores: list[int]) -> None:
    rates = win_rates(np.array(scores, dtype=np.float64))
    wins = [[(a > b) + (a == b) / 2 for j, b in enumerate(scores) if j != i] for i, a in enumerate(scores)]
    assert rates.tolist() == pytest.approx([sum(row) / len(row) for row in wins])
    assert win_rates(np.array([5.0])).tolist() == [0.0]


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(ConfigError, match="normalise 'batch' is unknown: choose group, wins"):
        RewardSum({"a": 1.0}, "batch")


def test_the_judge_of_a_normalised_sum_weighs_each_reward_by_its_spread(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    incompressible, compressible = load_reward("jpeg-incompressibility"), load_reward("jpeg-compressibility")
    for reward in (incompressible, compressible):
        score(data, reward, name=reward.name)
    sums = RewardSum({incompressible.name: 1.0, compressible.name: 0.5}, "group")
    rank(data, reward=sums, name="p")
    judge = judge_of_tables([data], "pairs", "p")
    spread = json.loads(data.pairs("p").schema.metadata[b"ppod"])["rewards"][compressible.name]["spread"]
    assert [part.weight for part in judge.parts] == pytest.approx([0.5 / spread, 1.0 / spread])
