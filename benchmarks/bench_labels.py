"""Claim: importing labels costs at most 3 times what reading and rewriting their file costs.

A Parquet file of a million rows with the columns of Pick-a-Pic without images, random pairs of 15,000 samples of 100
prompts: `import_labels`, which matches and checks every row and writes labels and pairs, against `pyarrow` reading the
same file and writing it again, in the same compression. Clock: processor time.
"""

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from large_latents import make_spec
from side_by_side import Report, is_quick, measure, ratios

from ppod_data.dataset.dataset import Dataset, create
from ppod_data.format.tables import SAMPLES, part_name, write_table
from ppod_data.labels.importing import import_labels

PROMPTS, IMAGES = 100, 150


def make_dataset(root: Path) -> Dataset:
    """Rows of samples without images and trajectories: labels need neither."""
    prompts = tuple(f"prompt number {n}, of the usual length of a prompt" for n in range(PROMPTS))
    spec = dataclasses.replace(
        make_spec(IMAGES), prompts=prompts, images_per_shard=PROMPTS * IMAGES, num_inference_steps=1
    )
    dataset = create(root, spec)
    rows = [
        {
            **dict.fromkeys(SAMPLES.names),
            "sample_id": spec.sample_id(name, k),
            "prompt_id": name,
            "image_index": k,
            "image_pixels_sha256": hashlib.sha256(f"{name} {k}".encode()).hexdigest(),
        }
        for name in spec.prompt_ids
        for k in range(IMAGES)
    ]
    write_table(root / "samples" / part_name(0), pa.Table.from_pylist(rows, SAMPLES))
    return dataset


def make_labels(path: Path, dataset: Dataset, count: int) -> None:
    """Pick-a-Pic's columns; one label of eight is a tie, 5,000 people."""
    random = np.random.default_rng(0)
    prompt = random.integers(PROMPTS, size=count)
    first = random.integers(IMAGES, size=count)
    second = (first + random.integers(1, IMAGES, size=count)) % IMAGES
    label = random.choice([0.0, 1.0, 0.5], p=[0.4375, 0.4375, 0.125], size=count)
    ids = dataset.samples(["sample_id"])["sample_id"].combine_chunks()
    zero, one = (ids.take(pa.array(prompt * IMAGES + k)) for k in (first, second))
    number = pa.array(np.arange(count))
    columns = {
        "are_different": pa.array(np.ones(count, bool)),
        "best_image_uid": zero,
        "caption": pa.array(dataset.spec.prompts).take(pa.array(prompt)),
        "created_at": number.cast(pa.timestamp("ns")),
        "has_label": pa.array(np.ones(count, bool)),
        "image_0_uid": zero,
        "image_0_url": pa.array([f"https://example.org/{n}/0.png" for n in range(count)]),
        "image_1_uid": one,
        "image_1_url": pa.array([f"https://example.org/{n}/1.png" for n in range(count)]),
        "label_0": pa.array(label),
        "label_1": pa.array(1 - label),
        "model_0": pa.array(["a model"]).take(pa.array(np.zeros(count, int))),
        "model_1": pa.array(["a model"]).take(pa.array(np.zeros(count, int))),
        "ranking_id": number,
        "user_id": pa.array(random.integers(5_000, size=count)),
        "num_example_per_prompt": pa.array(np.ones(count, np.int64)),
    }
    pq.write_table(pa.table(columns), path, compression="zstd")


def rewrite(path: Path) -> Callable[[], None]:
    """Return a pass that reads and writes the file without parsing labels."""

    def run() -> None:
        pq.write_table(pq.read_table(path, use_threads=False), path.with_suffix(".again"), compression="zstd")

    return run


def imported(dataset: Dataset, path: Path, count: int) -> Callable[[], None]:
    """Return an import of the file, and check the count of labels."""

    def run() -> None:
        for folder in ("labels", "pairs"):
            shutil.rmtree(dataset.root / folder, ignore_errors=True)
        done = import_labels(dataset, path, format="pickapic", name="n")
        assert done.num_preferences + done.num_ties == count

    return run


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    count = 50_000 if quick else 1_000_000
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "data")
        path = Path(folder) / "pickapic.parquet"
        make_labels(path, dataset, count)
        ways = {"import": imported(dataset, path, count), "rewrite": rewrite(path)}
        seconds = measure(ways, rounds=1 if quick else 3)
        for clock, bound in (("processor", 3.0), ("wall", None)):
            one = seconds[clock]
            claim = f"import / read and rewrite, {count:,} rows, {clock} time"
            report.add(claim, ratios(one["import"], one["rewrite"]), bound=bound)
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
