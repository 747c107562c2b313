"""Claim: reading trajectories by range, checked, is as fast as reading and hashing can be.

Trajectories of 51 latents of 4×64×64 in fp32, in four tars of 64, through `Dataset.read_trajectory` (sha256 checked,
decoded into tensors). (1) It reaches at least 0.7 times the rate of `os.pread` and `hashlib.sha256` on the same bytes.
(2) The trajectories of a training step, 32 random ones of 256, are there at least 3 times as soon as through
`load_dataset("webdataset", streaming=True)`, which has no way to them but through all the tars. The files are in the
page cache. Clock: processor time; wall time is shown beside it. For information: a pass over everything against the
loader, which is no faster than the hash allows, since the loader checks nothing and leaves the members undecoded.
"""

import hashlib
import os
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars, load_dataset
from large_latents import make_dataset
from side_by_side import Report, is_quick, measure, ratios

from ppod_data.dataset.dataset import Dataset

Row = Mapping[str, Any]


def by_range(dataset: Dataset, rows: Sequence[Row]) -> Callable[[], None]:
    """Return a read of trajectories by their offsets."""

    def run() -> None:
        for row in rows:
            dataset.read_trajectory(row)

    return run


def bare_reads(dataset: Dataset, rows: Sequence[Row]) -> Callable[[], None]:
    """Return reads of the same bytes by the operating system alone."""
    folder = dataset.root / "trajectories"

    def run() -> None:
        files = {name: os.open(folder / name, os.O_RDONLY) for name in {row["traj_file"] for row in rows}}
        for row in rows:
            data = os.pread(files[row["traj_file"]], row["traj_nbytes"], row["traj_offset"])
            assert hashlib.sha256(data).hexdigest() == row["traj_sha256"]
        for descriptor in files.values():
            os.close(descriptor)

    return run


def webdataset_loader(dataset: Dataset, count: int) -> Callable[[], None]:
    """Return a pass of webdataset's loader over the tars."""
    tars = sorted(str(path) for path in (dataset.root / "trajectories").glob("*.tar"))

    def run() -> None:
        stream = load_dataset("webdataset", data_files={"train": tars}, split="train", streaming=True)
        assert sum(1 for _ in stream) == count

    return run


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    torch.set_num_threads(1)
    disable_progress_bars()
    report = Report()
    images, batch = (16, 2) if quick else (256, 32)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), images)
        ids = dataset.samples(["sample_id"])["sample_id"].to_pylist()
        rows = dataset.trajectory_index(random.Random(0).sample(ids, len(ids))).to_pylist()
        seconds = measure(
            {
                "ours": by_range(dataset, rows),
                "bare": bare_reads(dataset, rows),
                "step": by_range(dataset, rows[:batch]),
                "loader": webdataset_loader(dataset, len(rows)),
            },
            rounds=1 if quick else 9,
        )
    for clock, of in seconds.items():
        for fast, slow, claim, bound in (
            ("ours", "bare", "rate of checked reads by range / of pread and sha256", 0.7),
            ("step", "loader", "rate of a step's random reads / through datasets' loader", 3.0),
            ("ours", "loader", "rate of a checked pass over everything / of datasets' loader", None),
        ):
            report.add(
                f"{claim}, {clock} time",
                ratios(of[slow], of[fast]),
                bound=bound if clock == "processor" else None,
                at_least=True,
            )
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
