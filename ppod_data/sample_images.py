"""The images of some samples, read without those of all the others."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ppod_data.checksums import column_ranges
from ppod_data.dataset import Dataset
from ppod_data.errors import DamagedError
from ppod_data.files import DataPath, open_file
from ppod_data.ranges import fetch
from ppod_data.tables import part_name


def read_images(dataset: Dataset, sample_ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The id and the image file (PNG) of each sample, in the data set's order; page checksums are verified.

    Only row groups that hold a wanted sample are read, one at a time. Samples that are not there are left out.

    Raises:
        DamagedError: a part is cut, or fails a checksum.
    """
    wanted = set(sample_ids)
    spec = dataset.spec
    for shard in range(spec.num_shards):
        path = dataset.root / "samples" / part_name(shard)
        if not wanted.isdisjoint(spec.shard_sample_ids(shard)) and path.exists():
            yield from _read_rows(path, wanted)


def _read_rows(path: DataPath, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    try:
        with (
            open_file(path) as raw,
            pq.ParquetFile(path if isinstance(path, Path) else raw, page_checksum_verification=True) as file,
        ):
            if not isinstance(path, Path):
                fetch(raw, column_ranges(file.metadata, ["sample_id"]))
            names = pa.array(sorted(wanted), pa.string())
            for group in range(file.num_row_groups):  # a purge moves samples to other groups: their ids tell
                here = pc.is_in(file.read_row_group(group, columns=["sample_id"])["sample_id"], names)
                if pc.any(here).as_py():
                    table = file.read_row_group(group, columns=["sample_id", "image"])
                    for row in table.filter(here).to_pylist():
                        yield row["sample_id"], row["image"]["bytes"]
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DamagedError(
            f"{path}: damaged, {reason}: remove the file and make or get this part again"
        ) from error
