"""Data sets as the public functions take them."""

from typing import TypeAlias

from ppod_data.dataset.dataset import Dataset
from ppod_data.storage.files import AnyPath

AnyDataset: TypeAlias = Dataset | AnyPath
"""A data set, or its folder or URL."""


def open_dataset(dataset: AnyDataset) -> Dataset:
    """Return an open data set as it is, and open any other. Raises as `Dataset.open`."""
    return dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
