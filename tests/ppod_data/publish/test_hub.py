"""The Hub's calls, in order, on a stand-in with the real client's signatures: no network here."""

import fnmatch
import inspect
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError, HubError
from ppod_data.inspect.card import write_card
from ppod_data.library.sharing import push
from ppod_data.publish.hub import hub_repository, pull_from_hub, push_to_hub
from ppod_data.storage.files import sha256_file
from tests.support.tables import add_scores
from tests.support.toy import files, flip, make_dataset


class Folder:
    """A repository as a folder; each upload is a commit, kept as the list of its files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commits: list[list[str]] = []
        self.branches: list[str] = []
        self.written: set[str | None] = set()
        """Revisions that files were uploaded to."""
        self.damaged: set[str] = set()
        """Names whose next download is damaged."""

    def _names(self) -> list[str]:
        return sorted(
            path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()
        )

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert repo_type == "dataset" and exist_ok
        self.root.mkdir(exist_ok=True)

    def create_branch(self, repo_id: str, *, branch: str, repo_type: str, exist_ok: bool) -> None:
        assert repo_type == "dataset" and exist_ok
        self.branches.append(branch)

    def list_repo_files(self, repo_id: str, *, repo_type: str, revision: str | None = None) -> list[str]:
        return self._names()

    def upload_folder(
        self,
        *,
        repo_id: str,
        repo_type: str,
        revision: str | None = None,
        folder_path: Path,
        allow_patterns: list[str],
        commit_message: str,
    ) -> None:
        found = [path for path in Path(folder_path).rglob("*") if path.is_file()]
        names = [path.relative_to(folder_path).as_posix() for path in found]
        names = [name for name in names if any(fnmatch.fnmatch(name, one) for one in allow_patterns)]
        for name in names:
            self._copy(Path(folder_path) / name, self.root / name)
        self.written.add(revision)
        self.commits.append(sorted(names))

    def dataset_info(self, repo_id: str, *, revision: str | None, files_metadata: bool) -> Any:
        def lfs(name: str) -> Any:
            path = self.root / name
            return SimpleNamespace(sha256=sha256_file(path)) if name.endswith((".tar", ".parquet")) else None

        siblings = [
            SimpleNamespace(rfilename=name, size=(self.root / name).stat().st_size, lfs=lfs(name))
            for name in self._names()
        ]
        return SimpleNamespace(sha="c0ffee", siblings=siblings)

    def hf_hub_download(
        self,
        repo_id: str,
        filename: str,
        *,
        repo_type: str,
        revision: str | None = None,
        local_dir: Path | None = None,
        force_download: bool = False,
    ) -> str:
        if not (self.root / filename).exists():
            raise RemoteEntryNotFoundError(
                "404", response=httpx2.Response(404, request=httpx2.Request("GET", "http://x"))
            )
        if local_dir is None:
            return str(self.root / filename)
        self._copy(self.root / filename, local_dir / filename)
        return str(local_dir / filename)

    def snapshot_download(
        self, repo_id: str, *, repo_type: str, revision: str, local_dir: Path, allow_patterns: list[str]
    ) -> str:
        assert revision == "c0ffee", "one commit, whatever is pushed meanwhile"
        for name in self._names():
            if name in allow_patterns:
                self._copy(self.root / name, local_dir / name)
                if name in self.damaged:
                    flip(local_dir / name, 700)
        return str(local_dir)

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    dataset = make_dataset(tmp_path / "data")
    add_scores(dataset, "a", [0, 1, 2, 3, 4, 5])
    write_card(dataset.root)
    return dataset


@pytest.fixture
def hub(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "hub")


@pytest.mark.parametrize(
    "name",
    [
        *("create_repo", "create_branch", "list_repo_files", "upload_folder"),
        *("dataset_info", "hf_hub_download", "snapshot_download"),
    ],
)
def test_the_stand_in_has_the_signatures_of_the_real_client(name: str) -> None:
    real = inspect.signature(getattr(HfApi, name)).parameters
    for parameter in inspect.signature(getattr(Folder, name)).parameters.values():
        assert parameter.name in real, parameter
        assert real[parameter.name].kind in (parameter.kind, parameter.POSITIONAL_OR_KEYWORD)


def test_there_and_back(dataset: Dataset, hub: Folder, tmp_path: Path) -> None:
    push_to_hub(dataset, "o/n", api=hub)
    assert files(hub.root) == files(dataset.root)
    pull_from_hub("o/n", tmp_path / "back", api=hub)
    assert files(tmp_path / "back") == files(dataset.root)


def test_the_commit_that_makes_it_a_data_set_is_the_last(dataset: Dataset, hub: Folder) -> None:
    push_to_hub(dataset, "o/n", api=hub)
    folders = [sorted({name.split("/")[0] for name in commit}) for commit in hub.commits]
    assert folders == [["trajectories"], ["samples", "scores"], ["README.md", "croissant.json", "ppod.json"]]


def test_a_damaged_download_is_fetched_again(dataset: Dataset, hub: Folder, tmp_path: Path) -> None:
    push_to_hub(dataset, "o/n", api=hub)
    hub.damaged = {name for name in files(dataset.root) if name.endswith((".tar", ".parquet"))}
    pull_from_hub("o/n", tmp_path / "back", api=hub)
    assert files(tmp_path / "back") == files(dataset.root)


def test_damage_on_the_hub_is_not_kept(dataset: Dataset, hub: Folder, tmp_path: Path) -> None:
    push_to_hub(dataset, "o/n", api=hub)
    tar = sorted(hub.root.glob("trajectories/*.tar"))[0]
    flip(tar, 5000)
    with pytest.raises(DamagedError, match=tar.name):
        pull_from_hub("o/n", tmp_path / "back", api=hub)
    assert not (tmp_path / "back" / "ppod.json").exists()
    assert not (tmp_path / "back" / "trajectories" / tar.name).exists()


def test_other_repositories_are_left_alone(dataset: Dataset, hub: Folder, tmp_path: Path) -> None:
    hub.root.mkdir()
    with pytest.raises(ConfigError, match="not a ppod data set"):
        pull_from_hub("o/n", tmp_path / "back", api=hub)
    push_to_hub(make_dataset(tmp_path / "other", seed=1), "o/n", api=hub)
    with pytest.raises(ConfigError, match="holds another data set"):
        push_to_hub(dataset, "o/n", api=hub)


def test_a_branch_is_made_and_written_to(
    dataset: Dataset, hub: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    push(dataset, "hf://datasets/o/n@trial")
    assert (hub.branches, hub.written) == (["trial"], {"trial"})
    push(dataset, "hf://datasets/o/n")
    assert (hub.branches, hub.written) == (["trial"], {"trial", None})


def test_a_card_of_something_else_is_not_overwritten(dataset: Dataset, hub: Folder) -> None:
    hub.root.mkdir()
    (hub.root / ".gitattributes").write_text("*.tar filter=lfs")
    (hub.root / "README.md").write_text("notes")
    with pytest.raises(ConfigError, match=r"o/n: holds other files \(README.md\)"):
        push_to_hub(dataset, "o/n", api=hub)
    (hub.root / "README.md").unlink()
    push_to_hub(dataset, "o/n", api=hub)


def test_a_copy_that_was_interrupted_before_its_cards_goes_on(
    dataset: Dataset, hub: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_to_hub(dataset, "o/n", api=hub)
    whole, patterns = hub.snapshot_download, []

    def interrupted(*arguments: Any, **options: Any) -> str:
        patterns.append(options["allow_patterns"])
        if len(patterns) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(hub, "snapshot_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pull_from_hub("o/n", tmp_path / "back", api=hub)
    assert not (tmp_path / "back" / "README.md").exists() and (tmp_path / "back" / "samples").exists()
    pull_from_hub("o/n", tmp_path / "back", api=hub)
    assert files(tmp_path / "back") == files(dataset.root)


def test_urls_of_the_hub() -> None:
    assert hub_repository("hf://datasets/o/n-1.x") == ("o/n-1.x", None)
    assert hub_repository("hf://datasets/o/n@refs/pr/1") == ("o/n", "refs/pr/1")
    assert hub_repository("s3://datasets/o/n") is None
    for url in ("hf://o/n", "hf://datasets/n", "hf://datasets/o/n/samples"):
        with pytest.raises(ConfigError, match="hf://datasets/OWNER/NAME"):
            hub_repository(url)


@pytest.mark.parametrize("act", ["push", "pull"])
def test_no_network_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        HubError, match=r"the data set was not copied \(.*\): run `hf auth login`, or unset HF_HUB_OFFLINE"
    ):
        if act == "push":
            push_to_hub(make_dataset(tmp_path / "data"), "me/animals")
        else:
            pull_from_hub("me/animals", tmp_path / "back")
