"""Every command that writes a data set leaves what links in it point to as it is, and publishes none of it."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppod_data.annotate.session import open_session
from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.exclusions import exclude
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.errors import ConfigError, PpodError
from ppod_data.generation.log_probs import compute_log_probs
from ppod_data.inspect.card import write_card
from ppod_data.integrity.purge import purge
from ppod_data.integrity.verify import verify
from ppod_data.labels.bradley_terry import write_scores
from ppod_data.labels.export.export import export_pairs
from ppod_data.publish.export_images import export
from ppod_data.publish.transfer import pull, push
from ppod_data.storage import real_folders
from tests.support.durable_data import STAGES, Work, before, make_stages, make_works
from tests.support.faults import visible
from tests.support.toy import files

FOLDERS = (
    *("samples", "trajectories", "environment", "scores", "scores/brightness", "scores/people"),
    *("log_probs", "log_probs/again", "labels", "labels/people.answers", "pairs"),
)
COMMANDS = (*STAGES, "log-probs", "card", "label", "people's scores", "exclude", "purge again", "pull")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the tests share."""
    return tmp_path_factory.mktemp("links")


@pytest.fixture(scope="module")
def works(tiny_model: DiffusionModel, place: Path) -> dict[str, Work]:
    """What each command does to a folder."""
    works = make_works(tiny_model, place)

    def excluded(root: Path) -> None:
        dataset = Dataset.open(root)
        exclude(root, dataset.spec, [], [dataset.spec.prompts[0]], "asked for")

    def purged(root: Path) -> None:
        dataset = Dataset.open(root)
        with contextlib.suppress(PpodError):
            exclude(root, dataset.spec, [dataset.spec.shard_sample_ids(0)[1]], [], "asked for")
        purge(Dataset.open(root))

    return works | {
        "log-probs": lambda root: _discard(compute_log_probs(Dataset.open(root), tiny_model, name="again")),
        "card": write_card,
        "label": lambda root: open_session(root / "labels" / "people.answers", []).close(),
        "people's scores": lambda root: _discard(write_scores(Dataset.open(root), "people", name="people")),
        "exclude": excluded,
        "purge again": purged,
        "pull": lambda root: _discard(pull(f"file://{place}/store", root)),
    }


def _discard(result: object) -> None:
    """A summary is for people."""


@pytest.fixture(scope="module")
def stages(works: dict[str, Work], place: Path) -> dict[str, Path]:
    """The data set after each command; "" is before all, "begun" lacks a shard."""
    (place / "stages").mkdir()
    found = make_stages(works, place / "stages")
    shutil.copytree(found["gen"], place / "begun")
    (place / "begun" / "samples" / "000001.parquet").unlink()
    push(Dataset.open(found["combine"]), f"file://{place}/store")
    return found | {"begun": place / "begun"}


def start_of(stages: dict[str, Path], command: str) -> Path:
    """The data set that the command begins with."""
    if command == "gen":
        return stages["begun"]
    return before(stages, command) if command in STAGES else stages["combine"]


def linked_folders(start: Path, place: Path) -> Iterator[tuple[Path, Path]]:
    """Copies of a data set, each with one folder that is a link; and the folder that it points to."""
    for number, folder in enumerate(FOLDERS):
        root, victim = place / f"{number}" / "data", place / f"{number}" / "victim"
        shutil.copytree(start, root)
        if (root / folder).exists():
            (root / folder).rename(victim)
        victim.mkdir(exist_ok=True)
        (victim / "mine.txt").write_text("mine")
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        (root / folder).symlink_to(victim)
        yield root, victim


@pytest.mark.parametrize("early", [True, False], ids=["looked for", "met when writing"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_or_removes_behind_a_linked_folder(
    works: dict[str, Work],
    stages: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    early: bool,
) -> None:
    """With `early` False the look before the work finds nothing: the writes themselves refuse."""
    if not early:
        monkeypatch.setattr(real_folders, "links_below", lambda root: iter(()))
    refused = 0
    for root, victim in linked_folders(start_of(stages, command), tmp_path):
        was, rest = files(victim), files(root)
        try:
            works[command](root)
        except ConfigError as error:
            assert "a link, which is not followed" in str(error)
            refused += 1
            if early:  # the secret of annotators is the test's own
                assert {**files(root), "labels/.salt": b""} == {**rest, "labels/.salt": b""}, (
                    "something was written before the link was refused"
                )
        assert files(victim) == was, root
    assert refused or command == "card" or not early


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_through_a_linked_file(
    works: dict[str, Work], stages: dict[str, Path], tmp_path: Path, command: str
) -> None:
    """Every file of the data set is a link, as in the Hub's cache, but the links are not the Hub's."""
    root, victim = tmp_path / "data", tmp_path / "victim"
    shutil.copytree(start_of(stages, command), victim)
    for path in [path for path in victim.rglob("*") if path.is_file()]:
        link = root / path.relative_to(victim)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    root.mkdir(exist_ok=True)
    was = files(victim)
    with contextlib.suppress(ConfigError):
        works[command](root)
    assert files(victim) == was


@pytest.mark.parametrize("name", ["notes.txt", "labels/extra.txt", "README.md", "pairs", "trajectories"])
def test_push_refuses_links_and_verify_lists_them(stages: dict[str, Path], tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    shutil.copytree(stages["combine"], root)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("PRIVATE")
    if (root / name).is_dir():
        shutil.move(root / name, tmp_path / "moved")
        (root / name).symlink_to(tmp_path / "moved")
    else:
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to("../private/key" if "/" not in name else "../../private/key")
    with pytest.raises(ConfigError, match=f"{name}: a link, which is not followed"):
        push(Dataset.open(root), f"file://{tmp_path}/store")
    assert not (tmp_path / "store").exists()
    found = verify(root).of("leftover")
    assert [finding.file for finding in found if "link" in finding.problem] == [name]


def test_a_snapshot_of_the_hubs_cache_is_read_scored_and_pushed(
    works: dict[str, Work], stages: dict[str, Path], tmp_path: Path
) -> None:
    """There every file is a link to ../../blobs."""
    root, blobs = tmp_path / "repo" / "snapshots" / "abc", tmp_path / "repo" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in stages["gen"].rglob("*") if path.is_file())):
        shutil.copy(path, blobs / f"{number}")
        link = root / path.relative_to(stages["gen"])
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(
            Path("../" * (len(link.relative_to(tmp_path / "repo").parts) - 1)) / "blobs" / f"{number}"
        )
    was = files(blobs)
    works["score"](root)
    push(Dataset.open(root), f"file://{tmp_path}/store")
    assert Dataset.open(tmp_path / "store").scores("brightness").num_rows == 4
    assert verify(root).findings == [] and files(blobs) == was


@pytest.mark.parametrize("what", ["images", "pairs"])
def test_exports_write_through_no_link(stages: dict[str, Path], tmp_path: Path, what: str) -> None:
    dataset = Dataset.open(stages["combine"])
    victim = tmp_path / "victim"
    victim.mkdir()
    out = tmp_path / "out"

    def work() -> None:
        if what == "pairs":
            export_pairs(dataset, name="people", format="flow-factory", out=out)
        else:
            export(dataset, out)

    if what == "pairs":
        out.symlink_to(victim)
    else:
        work()
        folder = next(path for path in out.iterdir() if path.is_dir())
        shutil.rmtree(folder)
        folder.symlink_to(victim)
    with pytest.raises(ConfigError, match=r"a link, which is not followed|exists"):
        work()
    assert files(victim) == {}


@pytest.mark.parametrize(
    "command", sorted({*COMMANDS} - {"import", "label"})
)  # these write by themselves first
def test_a_root_that_the_user_names_by_a_link_is_the_folder_it_points_to(
    works: dict[str, Work], stages: dict[str, Path], tmp_path: Path, command: str
) -> None:
    (tmp_path / "disk").mkdir()
    for name in ("data", "disk/data"):
        shutil.copytree(start_of(stages, command), tmp_path / name)
    (tmp_path / "home").symlink_to("disk")
    works[command](tmp_path / "data")
    works[command](tmp_path / "home" / "data")
    assert visible(tmp_path / "disk" / "data") == visible(tmp_path / "data")
