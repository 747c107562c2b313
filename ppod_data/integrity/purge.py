"""Removal of excluded samples from the files, for readers that ignore the exclusion list.

Every shard, score, log-probability, label and pair table that holds an excluded sample is rewritten without it.
Other files keep their bytes and names. The list keeps its entries, which explain the missing samples. A killed
purge is completed by running it again. A seal is set aside while files change, and rewritten at the end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ppod_data.dataset.dataset import Dataset
from ppod_data.format.shards import PURGING, SUMS, Sample, ShardWriter, committed_shards, read_member
from ppod_data.format.sums import FILE_FOLDERS, file_seal, file_tables, open_table, seal_file, seal_table
from ppod_data.format.tables import (
    LABELS,
    LOG_PROBS,
    PAIRS,
    SAMPLES,
    SCORES,
    part_name,
    read_table,
    write_table,
)
from ppod_data.integrity.seal import remove_leftovers, seal, table_folders
from ppod_data.storage.files import DataPath, matching, name_below, remove, rename
from ppod_data.storage.real_folders import refuse_linked_folders
from ppod_data.support.progress import SILENT, Progress

_SCHEMAS = {"scores": SCORES, "log_probs": LOG_PROBS}


@dataclass(frozen=True, kw_only=True)
class PurgeSummary:
    """The result of `purge`."""

    num_samples: int
    """Samples whose image and trajectory this call removed."""
    num_rows: int
    """Rows of scores, log-probabilities, labels and pairs that this call removed."""
    sealed_again: bool


def purge(dataset: Dataset, *, progress: Progress = SILENT) -> PurgeSummary:
    """Rewrite every file of `dataset` that holds an excluded sample. No other process may write at the same time.

    Args:
        dataset: the data set.
        progress: notes the name of every rewritten file.

    Raises:
        DamagedError: a file to rewrite is damaged.
    """
    root, excluded = dataset.root, dataset.excluded
    refuse_linked_folders(root)
    sealed = (root / SUMS).exists() or (root / PURGING).exists()
    samples, rows = 0, 0
    for path, schema, columns in _tables(root):  # tables first, so that none names a removed sample
        table = read_table(path, schema)
        kept = _without(table, excluded, columns)
        if kept.num_rows == table.num_rows:
            continue
        if path.parent.name in FILE_FOLDERS:
            remove(file_seal(path))
        else:
            open_table(path.parent)
        write_table(path, kept)
        rows += table.num_rows - kept.num_rows
        progress.note(name_below(root, path))
    for shard in committed_shards(root):
        part = root / "samples" / part_name(shard)
        ids = read_table(part, SAMPLES, ["sample_id"])["sample_id"].to_pylist()
        if not any(sample_id in excluded for sample_id in ids):
            continue
        if (root / SUMS).exists():
            rename(root / SUMS, root / PURGING)
        samples += _purge_shard(dataset, shard)
        progress.note(f"samples/{part.name}")
    _seal_again(dataset, sealed)
    return PurgeSummary(num_samples=samples, num_rows=rows, sealed_again=sealed)


def _purge_shard(dataset: Dataset, shard: int) -> int:
    """Recommit the shard without the excluded samples. Return how many were removed."""
    root = dataset.root
    part = root / "samples" / part_name(shard)
    table = read_table(part, dataset.sample_schema)
    kept = _without(table, dataset.excluded, ("sample_id",))
    if kept.num_rows == 0:
        write_table(part, kept)
    else:
        with ShardWriter(root, shard, replace=True) as writer:
            for row in kept.to_pylist():
                writer.add(_sample(root, row))
    removed: int = table.num_rows - kept.num_rows
    return removed


def _sample(root: DataPath, row: dict[str, Any]) -> Sample:
    member = (row["traj_file"], row["traj_offset"], row["traj_nbytes"], row["traj_sha256"])
    latents = bytes(read_member(root, *member, sample_id=row["sample_id"]))
    names = Sample.__dataclass_fields__.keys() - {"image_bytes", "latents_safetensors"}
    return Sample(
        **{name: row[name] for name in names & row.keys()},
        image_bytes=row["image"]["bytes"],
        latents_safetensors=latents,
    )


def _tables(root: DataPath) -> Iterator[tuple[DataPath, Any, tuple[str, ...]]]:
    """Yield every part of a table with its schema and the columns that name samples."""
    for folder in table_folders(root):
        for path in matching(folder, "[!.]*.parquet"):
            yield path, _SCHEMAS[folder.parent.name], ("sample_id",)
    for path in file_tables(root):
        labels = path.parent.name == "labels"
        yield path, LABELS if labels else PAIRS, ("a_id", "b_id") if labels else ("chosen_id", "rejected_id")


def _without(table: Any, excluded: Mapping[str, str], columns: tuple[str, ...]) -> Any:
    names = pa.array(sorted(excluded), pa.string())
    for column in columns:
        table = table.filter(pc.invert(pc.is_in(table[column], names)))
    return table


def _seal_again(dataset: Dataset, sealed: bool) -> None:
    """Remove the old tars, and rewrite the seals that were removed."""
    root = dataset.root
    list(remove_leftovers(root, at_once=True))  # no other process writes
    for folder in table_folders(root):
        seal_table(folder, dataset.spec)
    for path in file_tables(root):
        seal_file(path)
    if sealed:
        seal(root, incomplete=True)
