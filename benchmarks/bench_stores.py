"""Claim: streaming from a store is as fast as the store's client, from the cache as the disk, in memory that is flat.

64 trajectories of 51 latents of 4×64×64 in fp32 in random order, in tars of 8, from an S3 server (moto's) on loopback,
a process of its own. The same ranges by the same fsspec client are the bare work, got one by one, or a batch of 16 at a
time; they are neither hashed nor decoded. (1) Without a cache, one by one and in batches that are read ahead, at least
0.7 times the client's rate. (2) With a cache that is empty at first, at least 0.4 times. (3) From the cache, at least
0.7 times the rate of `os.pread` and `hashlib.sha256` of the same bytes on disk, as reading a folder. (4) Where every
request waits 50 ms more, as on a network, reading ahead has at least 3 times the rate of the bare client, one by one.
(5) Peak memory of a process that reads everything with an empty cache, 64 trajectories / 16: at most 1.1. Clocks: wall
time for (1), (2) and (4), which wait; processor time of this process for (3), whose files are in the page cache.
"""

import asyncio
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from large_latents import make_dataset
from side_by_side import Report, is_quick, measure, ratios

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.trajectory_reader import Reader
from ppod_data.publish.transfer import push

Row = Mapping[str, Any]
BATCH = 16
READ_ALL = """
import sys
from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.torch_loader import Trajectories
dataset = Trajectories(Dataset.open(sys.argv[1]))
for first in range(0, len(dataset), 8):
    dataset.__getitems__(range(first, first + 8))
"""


@contextmanager
def server(folder: Path) -> Iterator[None]:
    """Start an S3 server with a bucket, and set the variables by which clients find it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PPOD_CACHE": str(folder / "cache"),
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with socket.socket() as ready:
                if ready.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        import boto3

        boto3.client("s3").create_bucket(Bucket="bucket")
        yield
    finally:
        process.terminate()
        process.wait()


def batches(rows: Sequence[Row]) -> list[range]:
    """Return the row numbers of each batch."""
    return [range(first, min(first + BATCH, len(rows))) for first in range(0, len(rows), BATCH)]


def bare_client(dataset: Dataset, rows: Sequence[Row], *, at_once: bool) -> Callable[[], None]:
    """Return reads of the same ranges by fsspec alone."""
    import fsspec

    store, _ = fsspec.core.url_to_fs(str(dataset.root))
    places = [f"{dataset.root}/trajectories/{row['traj_file']}" for row in rows]
    starts = [row["traj_offset"] for row in rows]
    ends = [row["traj_offset"] + row["traj_nbytes"] for row in rows]

    def run() -> None:
        for batch in batches(rows):
            numbers = slice(batch.start, batch.stop)
            if at_once:
                store.cat_ranges(places[numbers], starts[numbers], ends[numbers], on_error="raise")
            else:
                for i in batch:
                    store.cat_file(places[i], start=starts[i], end=ends[i])

    return run


def one_by_one(dataset: Dataset, rows: Sequence[Row], gib: str = "0") -> Callable[[], None]:
    """Return reads of one trajectory after another."""

    def run() -> None:
        os.environ["PPOD_CACHE_GIB"] = gib
        for row in rows:
            dataset.read_trajectory(row)

    return run


def read_ahead(
    dataset: Dataset, rows: Sequence[Row], gib: str, clear: Path | None = None
) -> Callable[[], None]:
    """Return reads with the next batches prefetched."""

    def run() -> None:
        os.environ["PPOD_CACHE_GIB"] = gib
        if clear is not None:
            shutil.rmtree(clear, ignore_errors=True)
        reader, parts = Reader.of(dataset, rows), batches(rows)
        for batch, following in zip(parts, [*parts[1:], range(0)], strict=True):
            reader.read(batch)
            reader.expect(following)

    return run


def delayed(work: Callable[[], None]) -> Callable[[], None]:
    """Return the same work with a delay of 50 ms before every request."""
    import s3fs

    request = s3fs.S3FileSystem._call_s3

    async def late(*arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0.05)
        return await request(*arguments, **options)

    def run() -> None:
        s3fs.S3FileSystem._call_s3 = late
        try:
            work()
        finally:
            s3fs.S3FileSystem._call_s3 = request

    return run


def bare_disk(dataset: Dataset, rows: Sequence[Row]) -> Callable[[], None]:
    """Return reads and checksums of the same ranges on a local disk."""

    def run() -> None:
        for row in rows:
            with (dataset.root / "trajectories" / row["traj_file"]).open("rb") as file:
                data = os.pread(file.fileno(), row["traj_nbytes"], row["traj_offset"])
            assert hashlib.sha256(data).hexdigest() == row["traj_sha256"]

    return run


def peak(url: str) -> int:
    """Return the peak resident memory in KiB of a process that reads all trajectories."""
    process = subprocess.Popen([sys.executable, "-c", READ_ALL, url])
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, url
    return usage.ru_maxrss


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    torch.set_num_threads(1)
    report = Report()
    few, many = (8, 16) if quick else (16, 64)
    with tempfile.TemporaryDirectory() as name, server(Path(name)):
        folder = Path(name)
        local = {count: make_dataset(folder / str(count), count, images_per_shard=8) for count in (few, many)}
        for count, dataset in local.items():
            push(dataset, f"s3://bucket/{count}")
        memory = []
        for count in local:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            memory.append(peak(f"s3://bucket/{count}"))
        disk, store = local[many], Dataset.open(f"s3://bucket/{many}")
        ids = disk.samples(["sample_id"])["sample_id"].to_pylist()
        rows = disk.trajectory_index(random.Random(0).sample(ids, len(ids))).to_pylist()
        seconds = measure(
            {
                "bare client": bare_client(store, rows, at_once=False),
                "one by one": one_by_one(store, rows),
                "bare client, batches": bare_client(store, rows, at_once=True),
                "read ahead": read_ahead(store, rows, "0"),
                "cold": read_ahead(store, rows, "10", clear=folder / "cache"),
                "warm": one_by_one(store, rows, "10"),
                "warm, read ahead": read_ahead(store, rows, "10"),
                "folder": one_by_one(disk, rows),
                "bare disk": bare_disk(disk, rows),
                "bare client, delayed": delayed(bare_client(store, rows, at_once=False)),
                "read ahead, delayed": delayed(read_ahead(store, rows, "0")),
            },
            rounds=1 if quick else 5,
        )
    for ours, bare, claim, judged, bound in (
        ("one by one", "bare client", "S3, one by one, no cache / bare client", "wall", 0.7),
        (
            "read ahead",
            "bare client, batches",
            "S3, read ahead, no cache / bare client, batches",
            "wall",
            0.7,
        ),
        ("cold", "bare client, batches", "S3, read ahead, empty cache / bare client, batches", "wall", 0.4),
        (
            "read ahead, delayed",
            "bare client, delayed",
            "S3 50 ms away, read ahead / bare client",
            "wall",
            3.0,
        ),
        ("warm", "bare disk", "from the cache / pread and sha256", "processor", 0.7),
        ("folder", "bare disk", "a folder / pread and sha256", "processor", 0.7),
        ("warm, read ahead", "bare disk", "from the cache, by threads / pread and sha256", "", None),
        ("read ahead", "bare client", "S3, read ahead, no cache / bare client, one by one", "", None),
        ("warm", "bare client", "from the cache / bare client, one by one", "", None),
    ):
        for clock, of in seconds.items():
            report.add(
                f"rate of {claim}, {clock} time",
                ratios(of[bare], of[ours]),
                bound=bound if clock == judged else None,
                at_least=True,
            )
    report.add(f"peak memory, {many} trajectories / {few}", [memory[1] / memory[0]], bound=1.1)
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
