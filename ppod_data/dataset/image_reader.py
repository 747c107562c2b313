"""A reader of some samples' images that skips all others."""

import hashlib
from collections.abc import Iterator, Sequence

from ppod_data.errors import DamagedError
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.tables import SAMPLES, iter_rows, part_name
from ppod_data.storage.files import DataPath

_COLUMNS = ("sample_id", "image", "image_sha256")


def read_images(
    root: DataPath, spec: GenerationSpec, sample_ids: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield the id and the image file of each sample, in the data set's order, checked against its image_sha256.

    Only row groups that hold a wanted sample are read, one at a time. Absent samples are skipped.

    Raises:
        DamagedError: a part is truncated, fails a checksum, or holds an image that does not match its sha256.
    """
    wanted = set(sample_ids)
    for shard in range(spec.num_shards):
        path = root / "samples" / part_name(shard)
        if wanted.isdisjoint(spec.shard_sample_ids(shard)) or not path.exists():
            continue
        for row in iter_rows(path, SAMPLES, _COLUMNS, "sample_id", wanted):
            data = (row["image"] or {}).get("bytes") or b""
            if hashlib.sha256(data).hexdigest() != row["image_sha256"]:
                raise DamagedError(
                    f"{path}: the image of sample {row['sample_id']} does not match its sha256: get this part again"
                )
            yield row["sample_id"], data
