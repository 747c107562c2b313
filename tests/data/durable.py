"""Strike a command at every point of its work with the disk, run it again, and compare with an undisturbed run."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from ppod_data.card import write_card
from ppod_data.dataset import Dataset
from ppod_data.diffusion.model import DiffusionModel
from ppod_data.exclude import exclude
from ppod_data.files import atomic_create
from ppod_data.generate import build_spec, generate
from ppod_data.labels.combine import Source, combine
from ppod_data.labels.importing import import_labels
from ppod_data.pairs import rank
from ppod_data.purge import purge
from ppod_data.score import score
from ppod_data.seal import seal
from ppod_data.spec import GenerationSpec
from tests.data.damage import Brightness
from tests.data.faults import FULL, count_operations, full_from, in_child, killed_at, temporaries, visible

Work = Callable[[Path], None]
SHARED = ("gen", "score", "pair", "import", "combine")
"""Commands that several processes may run at the same time."""
STAGES = (*SHARED, "seal", "purge")
"""In the order in which they are done to a data set."""


def make_works(model: DiffusionModel, place: Path) -> dict[str, Work]:
    """What each command does to a folder, with a small model and a simple reward; `place` holds a file of labels."""
    spec = build_spec(
        model,
        prompts=("a cat", "a dog"),
        num_images_per_prompt=2,
        num_inference_steps=2,
        batch_size=2,
        images_per_shard=2,
    )
    file = _label_file(place / "labels.jsonl", spec)

    def gen(root: Path) -> None:
        generate(root, spec, model, shards=range(spec.num_shards))
        write_card(root)

    def scored(root: Path) -> None:
        score(Dataset.open(root), Brightness(), name="brightness")
        write_card(root)

    def paired(root: Path) -> None:
        rank(Dataset.open(root), reward="brightness", name="brightness", strategy="all")
        write_card(root)

    def imported(root: Path) -> None:
        atomic_create(
            root / "labels" / ".salt", b"5a" * 32
        )  # it is random, and would make every run another one
        import_labels(Dataset.open(root), file, format="table", name="people", skip_bad=True)
        write_card(root)

    def combined(root: Path) -> None:
        sources = [Source(name="people", weight=2), Source(name="brightness")]
        combine(Dataset.open(root), sources, name="both", label_smoothing=0.1, validation_share=0.5)
        write_card(root)

    def purged(root: Path) -> None:
        exclude(root, spec, [spec.sample_id(spec.prompt_ids[0], 0)], [], "asked for")
        purge(Dataset.open(root))
        write_card(root)

    return {
        "gen": gen,
        "score": scored,
        "pair": paired,
        "import": imported,
        "combine": combined,
        "seal": lambda root: _discard(seal(root)),
        "purge": purged,
    }


def _discard(result: object) -> None:
    """A command's summary is for people."""


def _label_file(path: Path, spec: GenerationSpec) -> Path:
    """Three answers a prompt about its two images, one of them a tie, and one answer that cannot be a label."""
    rows = []
    for prompt_id, prompt in zip(spec.prompt_ids, spec.prompts, strict=True):
        a, b = (spec.sample_id(prompt_id, k) for k in range(2))
        rows += [
            {"prompt": prompt, "a": a, "b": b, "label": label, "annotator": who}
            for who, label in (("x", "a"), ("y", "a"), ("z", "tie"))
        ]
    rows.append({"prompt": spec.prompts[0], "a": "nobody", "b": "knows", "label": "a", "annotator": "x"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_stages(works: Mapping[str, Work], place: Path) -> dict[str, Path]:
    """The data set after each command, undisturbed; "" is before all."""
    (place / "none").mkdir()
    found = {"": place / "none"}
    for stage in STAGES:
        found[stage] = place / stage
        shutil.copytree(before(found, stage), found[stage])
        works[stage](found[stage])
    return found


def before(stages: Mapping[str, Path], stage: str) -> Path:
    """The data set that the command of `stage` starts from."""
    return stages[("", *STAGES)[STAGES.index(stage)]]


def kill_everywhere(
    work: Work,
    start: Path,
    end: Path,
    place: Path,
    stride: int,
    *,
    check: Callable[[Path], None] | None = None,
    result: Callable[[Path], dict[str, str]] = visible,
) -> int:
    """SIGKILL at every point; how many they were.

    Args:
        check: fails where something is half-written after a kill; unless given, every file must be as before or after.
        result: what must be the same in the end.
    """
    chosen = _points(work, start, place / "counted", stride)
    check = check or _old_or_new(start, end)
    wanted = result(end)
    for number in chosen:
        root = place / "data"
        shutil.copytree(start, root)
        killed_at(number, lambda root=root: work(root))
        check(root)
        assert in_child(lambda root=root: work(root)) == 0, f"no going on after a kill at operation {number}"
        assert result(root) == wanted, f"another result after a kill at operation {number}"
        shutil.rmtree(root)
    return len(chosen)


def fill_everywhere(
    work: Work,
    start: Path,
    end: Path,
    place: Path,
    stride: int,
    *,
    check: Callable[[Path], None] | None = None,
    result: Callable[[Path], dict[str, str]] = visible,
) -> int:
    """A disk that is full from every point on; how many they were. Arguments as of `kill_everywhere`."""
    chosen = _points(work, start, place / "counted", stride)
    check = check or _old_or_new(start, end)
    wanted = result(end)
    for number in chosen:
        root = place / "data"
        shutil.copytree(start, root)
        assert full_from(number, lambda root=root: work(root)) in (0, FULL), number
        assert temporaries(root) == [], f"left behind at operation {number}"
        check(root)
        assert in_child(lambda root=root: work(root)) == 0, f"no going on after a full disk at {number}"
        assert result(root) == wanted, f"another result after a full disk at operation {number}"
        shutil.rmtree(root)
    return len(chosen)


def _points(work: Work, start: Path, place: Path, stride: int) -> list[int]:
    """Where to strike: every stride-th write, and every other operation, or every third with a stride."""
    shutil.copytree(start, place)
    seen = count_operations(lambda: work(place), place.with_name("log"))
    assert {"write", "fsync", "replace"} <= set(seen)
    writes = [number for number, name in enumerate(seen) if name == "write"]
    others = [number for number, name in enumerate(seen) if name != "write"]
    return sorted({*writes[::stride], *others[:: 1 if stride == 1 else max(3, stride // 3)]})


def _old_or_new(start: Path, end: Path) -> Callable[[Path], None]:
    """Fails where a visible file is neither that of before nor that of after the command."""
    known = visible(start).items() | visible(end).items()

    def check(root: Path) -> None:
        found = {
            name: sha256 for name, sha256 in visible(root).items() if not Path(name).name.startswith(".")
        }
        assert found.items() <= known, f"half-written: {sorted(found.items() - known)}"

    return check
