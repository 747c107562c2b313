"""Strike a command at every point of its work with the disk, run it again, and compare with an undisturbed run."""

import shutil
from collections.abc import Callable
from pathlib import Path

from ppod_data.card import write_card
from ppod_data.dataset import Dataset
from ppod_data.diffusion.model import DiffusionModel
from ppod_data.generate import build_spec, generate
from ppod_data.pairs import rank
from ppod_data.score import score
from tests.data.damage import Brightness
from tests.data.faults import FULL, count_operations, full_from, killed_at, temporaries, visible

Work = Callable[[Path], None]
STAGES = ("gen", "score", "pair")


def make_works(model: DiffusionModel) -> dict[str, Work]:
    """What ppod-gen, ppod-score and ppod-pair do to a folder, with a small model and a simple reward."""
    spec = build_spec(
        model,
        prompts=("a cat", "a dog"),
        num_images_per_prompt=2,
        num_inference_steps=2,
        batch_size=2,
        images_per_shard=2,
    )

    def gen(root: Path) -> None:
        generate(root, spec, model, shards=range(spec.num_shards))
        write_card(root)

    def scored(root: Path) -> None:
        score(Dataset.open(root), Brightness(), name="brightness")
        write_card(root)

    def paired(root: Path) -> None:
        rank(Dataset.open(root), reward="brightness", name="brightness", strategy="all")
        write_card(root)

    return {"gen": gen, "score": scored, "pair": paired}


def make_stages(works: dict[str, Work], place: Path) -> dict[str, Path]:
    """The data set after each command, undisturbed; "" is before all."""
    (place / "none").mkdir()
    found = {"": place / "none"}
    for stage in STAGES:
        found[stage] = place / stage
        shutil.copytree(before(found, stage), found[stage])
        works[stage](found[stage])
    return found


def before(stages: dict[str, Path], stage: str) -> Path:
    """The data set that the command of `stage` starts from."""
    return stages[("", *STAGES)[STAGES.index(stage)]]


def kill_everywhere(work: Work, start: Path, end: Path, place: Path, stride: int) -> int:
    """SIGKILL at every point; how many they were."""
    chosen = _points(work, start, place / "counted", stride)
    for number in chosen:
        root = place / "data"
        shutil.copytree(start, root)
        killed_at(number, lambda root=root: work(root))
        assert _committed(root).items() <= visible(end).items(), f"half-written after operation {number}"
        work(root)
        assert visible(root) == visible(end), f"another result after a kill at operation {number}"
        shutil.rmtree(root)
    return len(chosen)


def fill_everywhere(work: Work, start: Path, end: Path, place: Path, stride: int) -> int:
    """A disk that is full from every point on; how many they were."""
    chosen = _points(work, start, place / "counted", stride)
    for number in chosen:
        root = place / "data"
        shutil.copytree(start, root)
        assert full_from(number, lambda root=root: work(root)) in (0, FULL), number
        assert temporaries(root) == [], f"left behind at operation {number}"
        assert _committed(root).items() <= visible(end).items(), f"half-written at operation {number}"
        work(root)
        assert visible(root) == visible(end), f"another result after a full disk at operation {number}"
        shutil.rmtree(root)
    return len(chosen)


def _points(work: Work, start: Path, place: Path, stride: int) -> list[int]:
    """Where to strike: every stride-th write, and every other operation, or every third with a stride."""
    shutil.copytree(start, place)
    seen = count_operations(lambda: work(place), place.with_name("log"))
    assert seen.count("write") > 8 and {"fsync", "replace"} <= set(seen)
    writes = [number for number, name in enumerate(seen) if name == "write"]
    others = [number for number, name in enumerate(seen) if name != "write"]
    return sorted({*writes[::stride], *others[:: 1 if stride == 1 else 3]})


def _committed(root: Path) -> dict[str, str]:
    """Visible files, without the cards, which are written anew at each stage."""
    cards = ("README.md", "croissant.json")
    return {name: digest for name, digest in visible(root).items() if name not in cards}
