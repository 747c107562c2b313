"""Transfer of data sets to and from the Hugging Face Hub, through huggingface_hub.

The rules of `ppod_data.publish.transfer` apply. A commit of the Hub shows all of its files at once. The upload
of a large folder takes several commits: trajectories first, then the tables, and last the files of the top
folder with ppod.json, which makes it a data set.
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
    CARDS,
    TransferSummary,
    check_file,
    check_manifest,
    check_own_folder,
    commit_order,
    is_safe_name,
    published_names,
    refuse_other_files,
    sealed_sums,
)
from ppod_data.storage.files import DataPath, atomic_write, data_path, remove
from ppod_data.storage.real_folders import linked, links_below
from ppod_data.support.progress import SILENT, Progress

_URL = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?")


@contextmanager
def hub_errors(outcome: str) -> Iterator[None]:
    """Convert errors of the Hub to one `HubError`: `outcome`, the reason, and the next step."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    try:
        yield
    except (HTTPError, OfflineModeIsEnabled) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HubError(
            f"{outcome} ({reason}): run `hf auth login`, or unset HF_HUB_OFFLINE, then run the same command again"
        ) from error


def hub_repository(url: str) -> tuple[str, str | None] | None:
    """Return ("owner/name", revision) of hf://datasets/owner/name@revision, or None for another kind of URL.

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
    revision: str | None = None,
    private: bool = True,
    api: Any = None,
    progress: Progress = SILENT,
) -> TransferSummary:
    """Upload a data set to a repository, which is created if missing. Files that the Hub already has are skipped.

    Args:
        dataset: the data set, in a local folder.
        repository: OWNER/NAME.
        revision: a branch, which is created if missing; by default main.
        private: create a private repository.
        api: a `huggingface_hub.HfApi`; by default one with the user's stored token.
        progress: counts files.

    Raises:
        ConfigError: the repository holds another data set, or a card of something else.
        DamagedError: a local file does not match its checksum.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RemoteEntryNotFoundError

    api = api or HfApi()
    if not isinstance(dataset.root, Path):
        raise ConfigError(
            f"{dataset.root}: only a local folder can be pushed to the Hub: run ppod-data pull first"
        )
    names, sums = published_names(dataset), sealed_sums(dataset.root)
    sizes = {name: (dataset.root / name).stat().st_size for name in names}
    target: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset"}
    api.create_repo(**target, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(**target, branch=revision, exist_ok=True)
        target["revision"] = revision
    try:
        remote = Path(api.hf_hub_download(filename=MANIFEST, **target))
        if remote.read_bytes() != read_manifest_bytes(dataset.root / MANIFEST):
            raise ConfigError(f"{repository}: holds another data set: push to a new repository")
    except RemoteEntryNotFoundError:
        top = {name.split("/")[0] for name in api.list_repo_files(**target)}
        refuse_other_files(repository, top, names)
    for name in names:
        check_file(dataset.root / name, name, sums, str(dataset.root / name))
    progress.start(len(names), "files")
    for group in upload_groups(names):
        api.upload_folder(
            **target,
            folder_path=dataset.root,
            allow_patterns=group,
            commit_message=f"ppod data set {dataset.spec.fingerprint[:16]}: {group[0].split('/')[0]}",
        )
        progress.advance(len(group))
        progress.status(group[-1])
    return TransferSummary(num_files=len(names), num_copied=len(names), nbytes=sum(sizes.values()))


def upload_groups(names: Sequence[str]) -> list[list[str]]:
    """Group names by commit: trajectories; other folders and files; the cards, sums and ppod.json."""
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
    """Download a repository's data set into the folder `root`, which is created, or holds an earlier copy of it.

    One commit is pulled, the newest of `revision`. A file that arrives damaged is removed and fetched once
    more.

    Args:
        repository: OWNER/NAME.
        root: the folder.
        revision: a branch, tag or commit; by default the newest.
        api: a `huggingface_hub.HfApi`; by default one with the user's stored token.
        progress: counts files.

    Raises:
        ConfigError: the repository holds no data set, or `root` another one.
        DamagedError: a file is damaged on the Hub.
    """
    root = data_path(root)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if not isinstance(root, Path):
        raise ConfigError(
            f"{root}: the Hub's files need a local folder: pull to one, then run ppod-data push"
        )
    api = api or HfApi()
    info = api.dataset_info(repository, revision=revision, files_metadata=True)
    source: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset", "revision": info.sha}
    try:
        manifest = Path(api.hf_hub_download(filename=MANIFEST, **source)).read_bytes()
    except RemoteEntryNotFoundError as error:
        raise ConfigError(f"{repository}: not a ppod data set (no {MANIFEST}): check the name") from error
    check_manifest(manifest, repository)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings if is_safe_name(file.rfilename)}
    names = commit_order(set(sizes) - {MANIFEST})
    check_own_folder(root, manifest, names, repository)
    for path in links_below(root):  # huggingface_hub follows links when it writes
        raise linked(path)
    is_new = not (root / MANIFEST).exists()
    # cards last, as in every copy: without samples they would be of something else
    api.snapshot_download(
        **source, local_dir=root, allow_patterns=[name for name in names if name not in CARDS]
    )
    api.snapshot_download(**source, local_dir=root, allow_patterns=[name for name in names if name in CARDS])
    sums = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs} | sealed_sums(root)
    progress.start(len(names), "files")
    for name in names:
        try:
            check_file(root / name, name, sums, f"{repository}/{name}")
        except (DamagedError, FileNotFoundError):
            remove(root / name)
            api.hf_hub_download(filename=name, **source, local_dir=root, force_download=True)
            try:
                check_file(root / name, name, sums, f"{repository}/{name}")
            except DamagedError:
                remove(root / name)
                raise
        progress.advance(1)
        progress.status(name)
    if is_new:
        atomic_write(root / MANIFEST, manifest)
    return TransferSummary(num_files=len(names) + 1, num_copied=len(names) + 1, nbytes=sum(sizes.values()))
