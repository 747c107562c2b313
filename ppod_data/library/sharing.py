"""`push` and `pull`: copies of data sets in stores and on the Hugging Face Hub."""

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.library.datasets import AnyDataset, new_root, open_dataset
from ppod_data.publish.hub import hub_repository, pull_from_hub, push_to_hub
from ppod_data.publish.transfer import TransferSummary
from ppod_data.publish.transfer import pull as pull_files
from ppod_data.publish.transfer import push as push_files
from ppod_data.storage.files import AnyPath
from ppod_data.support.progress import SILENT, Progress


def push(
    dataset: AnyDataset, url: str, *, public: bool = False, progress: Progress = SILENT
) -> TransferSummary:
    """Copy a data set to a store or to the Hub. A reader never takes a partial copy for a whole one.

    Run the same call again to continue after an interruption, or to add new files.

    >>> from ppod_data import push
    >>> copied = push("data", "memory://bucket/data")
    >>> copied.num_copied == copied.num_files
    True

    Args:
        dataset: A data set, or its folder or URL.
        url: `hf://datasets/OWNER/NAME` or its branch `hf://datasets/OWNER/NAME@BRANCH`, or a folder of a store of
            fsspec.
        public: Make a new repository on the Hub visible to everyone.
        progress: Counts files.

    Raises:
        ConfigError: The store is unknown or its package is missing, `url` holds something else, or `public` is given
            for another place than the Hub.
        DamagedError: A file of the data set is damaged.
        StoreError: The store cannot be reached, or refuses.
    """
    opened, hub = open_dataset(dataset), hub_repository(url)
    if hub:
        return push_to_hub(opened, hub[0], revision=hub[1], private=not public, progress=progress)
    if public:
        raise ConfigError(
            f"{url}: public is for a repository of the Hub, hf://datasets/OWNER/NAME: leave it out"
        )
    new_root(url)
    return push_files(opened, url, progress=progress)


def pull(url: str, path: AnyPath, *, progress: Progress = SILENT) -> Dataset:
    """Copy a data set from a store or from the Hub into a folder, check every file, and return the data set.

    Run the same call again to continue after an interruption, or to get new files.

    >>> from ppod_data import pull, push
    >>> _ = push("data", "memory://bucket/to-pull")
    >>> pull("memory://bucket/to-pull", "copy").samples().num_rows
    4

    Args:
        url: `hf://datasets/OWNER/NAME`, or a folder of a store of fsspec.
        path: New folder, or one with an earlier copy.
        progress: Counts files.

    Raises:
        ConfigError: There is no data set at `url`, or another one in the folder.
        DamagedError: A file is damaged in the store.
        StoreError: The store cannot be reached, or refuses.
    """
    fetch(url, path, progress=progress)
    return Dataset.open(path)


def fetch(url: str, path: AnyPath, *, progress: Progress = SILENT) -> TransferSummary:
    """Do what `pull` does, and return what was copied. Arguments and errors are those of `pull`."""
    hub, root = hub_repository(url), new_root(path)
    if hub:
        return pull_from_hub(hub[0], root, revision=hub[1], progress=progress)
    return pull_files(url, root, progress=progress)
