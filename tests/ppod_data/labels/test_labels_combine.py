"""Combining pairs: one row for two images, hygiene, and no prompt on both sides of a split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, NothingToLearnError
from ppod_data.format.tables import PAIRS, SAMPLES, read_table, write_table
from ppod_data.labels.combine import Source, combine
from tests.support.label_cases import sample_ids
from tests.support.toy import files, make_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "data", prompts=tuple(f"prompt {n}" for n in range(5)))


def put(dataset: Dataset, name: str, *rows: tuple[int, int, float]) -> None:
    """A table of pairs of samples by their place."""
    ids = sample_ids(dataset)
    prompts = dataset.samples(["prompt_id"])["prompt_id"].to_pylist()
    made: list[dict[str, Any]] = [
        {
            "pair_id": f"{name}{place}",
            "prompt_id": prompts[chosen],
            "chosen_id": ids[chosen],
            "rejected_id": ids[rejected],
            "label": label,
            "margin": None,
            "source": "test",
            "votes": None,
        }
        for place, (chosen, rejected, label) in enumerate(rows)
    ]
    write_table(dataset.root / "pairs" / f"{name}.parquet", pa.Table.from_pylist(made, PAIRS))


def pairs(dataset: Dataset, name: str) -> list[tuple[int, int, float]]:
    place = {sample_id: row for row, sample_id in enumerate(sample_ids(dataset))}
    return [
        (place[row["chosen_id"]], place[row["rejected_id"]], row["label"])
        for row in dataset.pairs(name).to_pylist()
    ]


def test_tables_that_judge_the_same_images_are_averaged_by_weight(dataset: Dataset) -> None:
    put(dataset, "x", (0, 1, 1.0), (2, 1, 0.75))
    put(dataset, "y", (1, 0, 1.0), (3, 4, 0.625))
    done = combine(dataset, [Source(name="x", weight=3), Source(name="y")], name="z")
    assert pairs(dataset, "z") == [(0, 1, 0.75), (2, 1, 0.75), (3, 4, 0.625)]
    assert (done.num_rows, done.num_pairs, done.num_merged, done.num_contradictory) == (4, 3, 1, 1)
    made = json.loads(dataset.pairs("z").schema.metadata[b"ppod"])
    assert made["combined"] == {"x": 3, "y": 1}
    done = combine(dataset, [Source(name="x"), Source(name="y")], name="even")
    assert done.num_undecided == 1 and pairs(dataset, "even") == [(2, 1, 0.75), (3, 4, 0.625)]
    done = combine(dataset, [Source(name="x", weight=3), Source(name="y")], name="d", drop_contradictory=True)
    assert done.num_dropped == 1 and pairs(dataset, "d") == [(2, 1, 0.75), (3, 4, 0.625)]
    assert done.num_rows == done.num_pairs + done.num_merged + done.num_same_images + done.num_dropped


def test_smoothing_changes_the_label(dataset: Dataset) -> None:
    put(dataset, "x", (0, 1, 1.0), (3, 4, 0.75))
    combine(dataset, [Source(name="x")], name="z", label_smoothing=0.25)
    assert [label for _, _, label in pairs(dataset, "z")] == [0.875, 0.6875]


def test_one_image_under_two_names_is_one_image(dataset: Dataset) -> None:
    part = dataset.root / "samples" / "000000.parquet"
    table = read_table(part, SAMPLES)
    hashes = table["image_pixels_sha256"].to_pylist()
    column = table.schema.get_field_index("image_pixels_sha256")
    write_table(
        part, table.set_column(column, "image_pixels_sha256", pa.array([hashes[0], hashes[0], *hashes[2:]]))
    )
    put(dataset, "x", (0, 1, 1.0), (0, 2, 1.0), (1, 2, 1.0))
    done = combine(dataset, [Source(name="x")], name="z")
    assert (done.num_same_images, done.num_merged, done.num_pairs) == (1, 1, 1)
    assert pairs(dataset, "z") == [(0, 2, 1.0)]


@pytest.mark.parametrize("seed", range(3))
def test_a_prompt_is_never_on_both_sides(dataset: Dataset, seed: int) -> None:
    put(dataset, "x", *[(3 * n + i, 3 * n + j, 1.0) for n in range(5) for i, j in ((0, 1), (1, 2))])
    done = combine(dataset, [Source(name="x")], name="s", validation_share=0.4, seed=seed)
    sides = [set(dataset.pairs(f"s-{side}")["prompt_id"].to_pylist()) for side in ("train", "validation")]
    assert not sides[0] & sides[1] and [len(side) for side in sides] == [3, 2]
    assert done.tables == {"s-train": 6, "s-validation": 4}


def test_the_seed_decides_the_split(dataset: Dataset) -> None:
    put(dataset, "x", *[(3 * n, 3 * n + 1, 1.0) for n in range(5)])
    splits = set()
    for seed in range(8):
        combine(dataset, [Source(name="x")], name=f"s{seed}", validation_share=0.2, seed=seed)
        splits.add(dataset.pairs(f"s{seed}-validation")["prompt_id"].to_pylist()[0])
    assert len(splits) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": []}, "no tables to combine"),
        ({"sources": [Source(name="x"), Source(name="x")]}, "named twice"),
        ({"sources": [Source(name="x", weight=0)]}, "must be a positive number"),
        ({"sources": [Source(name="no")]}, "no pairs named 'no': give x"),
        ({"label_smoothing": 1.0}, "from 0 to below 1"),
        ({"validation_share": np.nan}, "between 0 and 1"),
        ({"name": "x"}, "give another --name"),
        ({"name": "a/b"}, "cannot name"),
    ],
)
def test_bad_options_write_nothing(dataset: Dataset, options: dict[str, Any], message: str) -> None:
    put(dataset, "x", (0, 1, 1.0))
    before = files(dataset.root)
    with pytest.raises(ConfigError, match=message):
        combine(dataset, **({"sources": [Source(name="x")], "name": "z"} | options))
    assert files(dataset.root) == before


def test_one_prompt_cannot_be_split(dataset: Dataset) -> None:
    put(dataset, "x", (0, 1, 1.0))
    with pytest.raises(NothingToLearnError, match="drop the split"):
        combine(dataset, [Source(name="x")], name="z", validation_share=0.5)
