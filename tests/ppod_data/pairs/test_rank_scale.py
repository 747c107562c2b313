"""Ranking holds a shard and a prompt at a time, and gives what ranking everything at once would give."""

import hashlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppod_data.errors import DamagedError
from ppod_data.format.tables import PAIRS, part_name, read_table, write_table
from ppod_data.pairs import writer
from ppod_data.pairs.rank import rank, select_pairs
from ppod_data.pairs.writer import Margins
from ppod_data.support.canonical_json import canonical_json
from ppod_data.support.noise import generator
from tests.support.big import make_big

MARGINS = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)


def one_by_one(total: int, generator: np.random.Generator) -> Iterator[int]:
    """0 … total - 1 in the random order that seeds of all versions give: a draw a call, in a table."""
    places = list(range(total))
    for place in range(total):
        other = place + int(generator.integers(total - place))
        places[place], places[other] = places[other], places[place]
        yield places[place]


@given(st.integers(2, 40), st.integers(1, 300), st.integers(0, 9), st.sampled_from([0.0, 2.0]))
def test_random_pairs_are_those_of_one_draw_after_another(
    count: int, limit: int, seed: int, min_margin: float
) -> None:
    scores = np.arange(float(count))
    numbered = [(first, second) for second in range(count) for first in range(second)]
    expected = []
    for number in one_by_one(len(numbered), generator("pairs", seed)):
        first, second = numbered[number]
        if second - first > min_margin and len(expected) < limit:
            expected.append((second, first))
    found = select_pairs(scores, "random", limit, min_margin, generator("pairs", seed))
    assert list(zip(found.chosen.tolist(), found.rejected.tolist(), strict=True)) == expected


def test_pair_numbers_are_right_far_beyond_floats_of_single_precision() -> None:
    count = 2_000_000
    found = select_pairs(np.arange(float(count)), "random", 5000, 0.0, generator("pairs", 1))
    assert (found.chosen > found.rejected).all() and found.chosen.max() < count and found.rejected.min() >= 0


@given(st.lists(st.lists(MARGINS, max_size=7), max_size=9))
def test_the_median_margin_is_numpys(groups: list[list[float]]) -> None:
    with tempfile.TemporaryFile() as file:
        scratch = Margins(file)
        for margins in groups:
            scratch.add(np.array(margins, np.float64))
        values = [margin for margins in groups for margin in margins]
        with np.errstate(over="ignore"):
            assert scratch.median() == (float(np.median(values)) if values else 0.0)


def test_blocks_do_not_matter_and_ids_have_the_documented_formula(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several blocks, several row groups."""
    dataset = make_big(tmp_path / "data", num_prompts=40, num_images_per_prompt=60)
    summary = rank(dataset, reward="r", name="p", strategy="all")
    path = dataset.root / "pairs" / "p.parquet"
    table = read_table(path, PAIRS)
    assert summary.num_pairs == len(table) == 40 * math.comb(60, 2)
    written = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(writer, "_BLOCK", 1 << 30)
    assert rank(dataset, reward="r", name="p", strategy="all") == summary
    assert path.read_bytes() == written
    for row in table.slice(50_000, 20).to_pylist():
        won, lost = (
            hashlib.sha256(canonical_json([row[name], row["source"]]).encode()).hexdigest()
            for name in ("chosen_id", "rejected_id")
        )
        assert row["pair_id"] == f"{int(won[:32], 16) ^ int(lost[32:], 16):032x}"
    assert len(set(table["pair_id"].to_pylist())) == len(table)


def test_samples_in_another_order_than_the_spec_are_refused(tmp_path: Path) -> None:
    dataset = make_big(tmp_path / "data", num_prompts=2, num_images_per_prompt=4)
    path = dataset.root / "samples" / part_name(0)
    table = read_table(path, dataset.samples().schema)
    write_table(path, pa.concat_tables([table.slice(4), table.slice(0, 4)]))
    with pytest.raises(DamagedError, match=r"000000\.parquet: its samples are not those of the spec"):
        rank(dataset, reward="r", name="p")
    assert not list((dataset.root / "pairs").glob("*"))


_PEAK = """
import json, resource, sys
from pathlib import Path
from ppod_data.dataset.dataset import Dataset
from ppod_data.pairs.rank import rank
root, pairs = Path(sys.argv[1]), int(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = rank(Dataset.open(root), reward="r", name="p", num_pairs_per_prompt=pairs)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([made.num_pairs, before / 1024, after / 1024]))
"""


def peak_of_rank(root: Path, num_pairs_per_prompt: int) -> tuple[int, float, float]:
    """(pairs, MiB in memory before ranking, the most while ranking) of a process of its own."""
    command = [sys.executable, "-c", _PEAK, str(root), str(num_pairs_per_prompt)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    pairs, before, after = json.loads(done.stdout)
    return pairs, before, after


def test_memory_does_not_grow_with_the_prompts(tmp_path: Path) -> None:
    """Ten times the prompts, and pairs that would take 150 MiB as a table."""
    few = make_big(tmp_path / "few", num_prompts=50)
    many = make_big(tmp_path / "many", num_prompts=500)
    pairs, _, low = peak_of_rank(few.root, 1000)
    more_pairs, _, high = peak_of_rank(many.root, 1000)
    assert (pairs, more_pairs) == (50_000, 500_000)
    assert high - low < 40, (low, high)


@pytest.mark.slow
def test_memory_at_ten_million_pairs_of_a_million_images(tmp_path: Path) -> None:
    """80 MB of margins are a mapped file, whose pages the system may drop."""
    few = make_big(tmp_path / "few", num_prompts=100)
    many = make_big(tmp_path / "many", num_prompts=10_000)
    _, _, low = peak_of_rank(few.root, 1000)
    pairs, _, high = peak_of_rank(many.root, 1000)
    assert pairs == 10_000_000
    assert high - low < 160, (low, high)
