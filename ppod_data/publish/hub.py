"""A whole data set on the Hugging Face Hub, through huggingface_hub.

The rules of `ppod_data.publish.transfer` hold here too.

A commit of the Hub shows all of its files at once. Uploads of large folders are several commits: trajectories first,
then the tables, and last the files of the top folder with ppod.json, without which it is no data set.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError, HubError
from ppod_data.format.manifest import MANIFEST, read_manifest_bytes
from ppod_data.format.shards import SUMS
from ppod_data.publish.transfer import (
    TransferSummary,
    check_file,
    check_manifest,
    check_own_folder,
    commit_order,
    is_safe_name,
    published_names,
    sealed_sums,
)
from ppod_data.storage.files import DataPath, atomic_write, data_path, remove
from ppod_data.storage.real_folders import linked, links_below
from ppod_data.support.progress import SILENT, Progress

_URL = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?")


@contextmanager
def hub_errors(outcome: str) -> Iterator[None]:
    """What goes wrong between here and the Hub as one `HubError`: `outcome`, the reason, and what to do."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    try:
        yield
    except (HTTPError, OfflineModeIsEnabled) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HubError(
            f"{outcome} ({reason}): run `hf auth login`, or unset HF_HUB_OFFLINE, then run the same command again"
        ) from error


def hub_repository(url: str) -> tuple[str, str | None] | None:
    """("owner/name", revision) of hf://datasets/owner/name@revision; None for another kind of URL.

    Raises:
        ConfigError: an hf:// URL that names no data set.
    """
    if not url.startswith("hf://"):
        return None
    match = _URL.fullmatch(url)
    if match is None:
        raise ConfigError(f"{url}: names no data set on the Hub: write hf://datasets/OWNER/NAME")
    return match[1], match[2]


@hub_errors("the data set was not copied")
def push_to_hub(
    dataset: Dataset,
    repository: str,
    *,
    private: bool = True,
    api: Any = None,
    progress: Progress = SILENT,
) -> TransferSummary:
    """Upload to the data set repository, which is made where it is missing; the Hub skips what it has.

    Args:
        api: a `huggingface_hub.HfApi`; by default one with the user's stored token.

    Raises:
        ConfigError: the repository holds another data set.
        DamagedError: a file here is not what it says it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RemoteEntryNotFoundError

    api = api or HfApi()
    if not isinstance(dataset.root, Path):
        raise ConfigError(
            f"{dataset.root}: only a local folder is pushed to the Hub: ppod-data pull it first"
        )
    names, sums = published_names(dataset), sealed_sums(dataset.root)
    sizes = {name: (dataset.root / name).stat().st_size for name in names}
    api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
    try:
        there = Path(api.hf_hub_download(repository, MANIFEST, repo_type="dataset"))
        if there.read_bytes() != read_manifest_bytes(dataset.root / MANIFEST):
            raise ConfigError(f"{repository}: another data set is there: push to a new repository")
    except RemoteEntryNotFoundError:
        pass
    for name in names:
        check_file(dataset.root / name, name, sums, str(dataset.root / name))
    progress.start(len(names), "files")
    for group in upload_groups(names):
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=dataset.root,
            allow_patterns=group,
            commit_message=f"ppod data set {dataset.spec.fingerprint[:16]}: {group[0].split('/')[0]}",
        )
        progress.advance(len(group))
        progress.status(group[-1])
    return TransferSummary(num_files=len(names), num_copied=len(names), nbytes=sum(sizes.values()))


def upload_groups(names: Sequence[str]) -> list[list[str]]:
    """Trajectories; then all other folders and unknown files; then the cards, sums and ppod.json, in one commit."""
    last = {"README.md", "croissant.json", SUMS, MANIFEST}
    groups = [
        [name for name in names if name.startswith("trajectories/")],
        [name for name in names if not name.startswith("trajectories/") and name not in last],
        [name for name in names if name in last],
    ]
    return [group for group in groups if group]


@hub_errors("the data set was not copied")
def pull_from_hub(
    repository: str,
    root: DataPath,
    *,
    revision: str | None = None,
    api: Any = None,
    progress: Progress = SILENT,
) -> TransferSummary:
    """Download the data set repository into the folder `root`, which is made, or is an earlier copy of it.

    One commit is pulled, the newest of `revision`. A file that arrives damaged is removed and fetched once more.

    Raises:
        ConfigError: no data set in the repository, or another one in `root`.
        DamagedError: a file is damaged on the Hub.
    """
    root = data_path(root)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if not isinstance(root, Path):
        raise ConfigError(f"{root}: the Hub's files go to a local folder: pull there, then ppod-data push")
    api = api or HfApi()
    info = api.dataset_info(repository, revision=revision, files_metadata=True)
    where: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset", "revision": info.sha}
    try:
        manifest = Path(api.hf_hub_download(filename=MANIFEST, **where)).read_bytes()
    except RemoteEntryNotFoundError as error:
        raise ConfigError(f"{repository}: not a ppod data set (no {MANIFEST}): check the name") from error
    check_manifest(manifest, repository)
    sizes = {one.rfilename: one.size or 0 for one in info.siblings if is_safe_name(one.rfilename)}
    names = commit_order(set(sizes) - {MANIFEST})
    check_own_folder(root, manifest, {name.split("/")[0] for name in names}, repository)
    for path in links_below(root):  # huggingface_hub would write through them
        raise linked(path)
    fresh = not (root / MANIFEST).exists()
    api.snapshot_download(**where, local_dir=root, allow_patterns=names)
    sums = {one.rfilename: one.lfs.sha256 for one in info.siblings if one.lfs} | sealed_sums(root)
    progress.start(len(names), "files")
    for name in names:
        try:
            check_file(root / name, name, sums, f"{repository}/{name}")
        except (DamagedError, FileNotFoundError):
            remove(root / name)
            api.hf_hub_download(filename=name, **where, local_dir=root, force_download=True)
            try:
                check_file(root / name, name, sums, f"{repository}/{name}")
            except DamagedError:
                remove(root / name)
                raise
        progress.advance(1)
        progress.status(name)
    if fresh:
        atomic_write(root / MANIFEST, manifest)
    return TransferSummary(num_files=len(names) + 1, num_copied=len(names) + 1, nbytes=sum(sizes.values()))
