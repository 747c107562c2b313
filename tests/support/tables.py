"""Scores and pairs for toy data sets."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ppod_data.dataset.dataset import Dataset
from ppod_data.format.tables import PAIRS, SCORES, part_name, write_table
from tests.support.toy import make_sample


def add_scores(dataset: Dataset, name: str, scores: Sequence[float | None]) -> None:
    """A score table with one score for each sample, in the spec's order; None: failed."""
    for shard in range(dataset.spec.num_shards):
        rows = [
            {
                "sample_id": make_sample(dataset.spec, n).sample_id,
                "score": scores[n],
                "scorer": name,
                "revision": "1",
                "image_pixels_sha256": make_sample(dataset.spec, n).image_pixels_sha256,
                "status": "ok" if scores[n] is not None else "failed: no",
            }
            for n in dataset.spec.shard_range(shard)
        ]
        write_table(
            dataset.root / "scores" / name / part_name(shard), pa.Table.from_pylist(rows, schema=SCORES)
        )


def add_pairs(dataset: Dataset, name: str, pairs: Sequence[tuple[int, int]], **values: Any) -> None:
    """A pair table of (chosen, rejected) samples, given by their numbers."""
    samples = [make_sample(dataset.spec, n) for n in range(dataset.spec.num_samples)]
    rows: list[dict[str, Any]] = [
        {
            "pair_id": f"{i:032x}",
            "prompt_id": samples[chosen].prompt_id,
            "chosen_id": samples[chosen].sample_id,
            "rejected_id": samples[rejected].sample_id,
            "label": 1.0,
            "margin": float(i + 1),
            "source": "reward:a",
            "votes": None,
        }
        | values
        for i, (chosen, rejected) in enumerate(pairs)
    ]
    write_table(dataset.root / "pairs" / f"{name}.parquet", pa.Table.from_pylist(rows, schema=PAIRS))
