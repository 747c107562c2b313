"""Data sets as the public functions take them."""

from pathlib import Path
from typing import TypeAlias

from ppod_data.dataset.dataset import Dataset
from ppod_data.format.shards import committed_shards
from ppod_data.generation.generate import select_shards
from ppod_data.storage.files import AnyPath, DataPath, data_path
from ppod_data.storage.folder_kinds import check_not_inside

AnyDataset: TypeAlias = Dataset | AnyPath
"""A data set, or its folder or URL."""


def open_dataset(dataset: AnyDataset) -> Dataset:
    """Return an open data set as it is, and open any other. Raises as `Dataset.open`."""
    return dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)


def new_root(path: AnyPath) -> DataPath:
    """Return the folder or URL of a data set that may be new.

    Raises:
        ConfigError: The folder is inside a data set, run or evaluation, or the store is unknown.
    """
    root = data_path(path)
    if isinstance(root, Path):
        check_not_inside(root, option="DATASET")
    return root


def share_of(
    dataset: Dataset, shards: tuple[int, int] | None, rank: int, world_size: int
) -> list[int] | None:
    """Return the shards of a range that a process works on; None for all that are made.

    Args:
        dataset: The data set.
        shards: The range A:B; None for all.
        rank: Number of the process.
        world_size: Number of processes.

    Raises:
        ConfigError: A range outside the data set.
    """
    if shards is not None:
        return select_shards(dataset.spec, shards, rank, world_size)
    if world_size == 1:
        return None
    return [number for number in committed_shards(dataset.root) if number % world_size == rank]
