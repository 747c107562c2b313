"""Strike a command at every point of its work with the disk, run it again, and compare with an undisturbed run."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ppod_data.annotate.questions import Question
from ppod_data.annotate.session import open_session
from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.exclusions import exclude
from ppod_data.dataset.merge import merge
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.generation.log_probs import compute_log_probs
from ppod_data.inspect.card import write_card
from ppod_data.integrity.purge import purge
from ppod_data.integrity.seal import seal
from ppod_data.labels.bradley_terry import write_scores
from ppod_data.labels.combine import Source, combine
from ppod_data.labels.export.export import export_pairs
from ppod_data.labels.importing import import_labels
from ppod_data.pairs.rank import rank
from ppod_data.publish.export_images import export
from ppod_data.publish.transfer import pull, push
from ppod_data.scoring.score import score
from ppod_data.storage.files import atomic_create
from tests.support.damage import Brightness
from tests.support.faults import FULL, count_operations, full_from, in_child, killed_at, temporaries, visible

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
        with one_user(place):
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


@dataclass(frozen=True)
class Case:
    """A command to strike, whose files begin as `start` and end as `end`."""

    work: Work
    start: Path
    end: Path
    check: Callable[[Path], None] | None = None
    """Fails where something is half-written; None for every file as before or after."""


def make_others(model: DiffusionModel, stages: Mapping[str, Path], place: Path) -> dict[str, Case]:
    """Commands that are not a step on the way of one data set: what they do to a folder, and how it begins and ends."""
    source = stages["combine"]
    dataset = Dataset.open(source)
    sample = dataset.spec.shard_sample_ids(0)[0]
    push(dataset, f"file://{place}/store")
    found: dict[str, tuple[Work, Path]] = {
        "log-probs": (
            lambda root: _discard(compute_log_probs(Dataset.open(root), model, name="again")),
            source,
        ),
        "agreement": (
            lambda root: _discard(write_scores(Dataset.open(root), "people", name="people")),
            source,
        ),
        "exclude": (
            lambda root: _discard(exclude(root, dataset.spec, [sample], [], "asked for")),
            source,
        ),
        "label": (answer_all, source),
        "push": (lambda root: _discard(push(dataset, f"file://{root}")), stages[""]),
        "pull": (lambda root: _discard(pull(f"file://{place}/store", root)), stages[""]),
        "export": (lambda root: _discard(export(dataset, root)), stages[""]),
        "pair export": (lambda root: export_once(dataset, root / "out"), stages[""]),
        "merge": (lambda root: _discard(merge(root / "merged.json", [source])), stages[""]),
    }
    cases = {}
    for name, (work, start) in found.items():
        end = place / f"end of {name}"
        shutil.copytree(start, end)
        work(end)
        cases[name] = Case(work, start, end, _prefixes(end) if name == "label" else None)
    return cases


def answer_all(root: Path) -> None:
    """One person answers every question of the page; the secret is fixed, since a random one changes every byte."""
    dataset = Dataset.open(root)
    folder = root / "labels" / "people.answers"
    atomic_create(folder / ".salt", b"5a" * 16)
    questions = [
        Question(prompt=prompt, ids=tuple(dataset.spec.sample_id(prompt_id, k) for k in range(2)))
        for prompt_id, prompt in zip(dataset.spec.prompt_ids, dataset.spec.prompts, strict=True)
    ]
    session = open_session(folder, questions)
    while (turn := session.next("somebody")).question is not None:
        session.record("somebody", turn.number, turn.shown, 0)
    session.close()


def finished(root: Path) -> dict[str, str]:
    """The sha256 of every file but those in folders that a killed export left."""
    return {name: digest for name, digest in visible(root).items() if ".tmp-" not in name}


def export_once(dataset: Dataset, out: Path) -> None:
    """An export that is there already is whole: the command refuses to write it again."""
    if not out.exists():
        export_pairs(dataset, name="people", format="flow-factory", out=out)


def _prefixes(end: Path) -> Callable[[Path], None]:
    """Fails where a journal is no beginning of the finished one; only its last line may be cut."""
    whole = {path.relative_to(end): path.read_bytes() for path in end.rglob("*.jsonl")}

    def check(root: Path) -> None:
        for path in root.rglob("*.jsonl"):
            assert whole[path.relative_to(root)].startswith(path.read_bytes()), path

    return check


@contextlib.contextmanager
def one_user(place: Path) -> Iterator[None]:
    """The user's own key, which annotators' names are hashed with, is the same each time."""
    before = os.environ.get("XDG_DATA_HOME")
    os.environ["XDG_DATA_HOME"] = str(place / "user")
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_DATA_HOME"]
        else:
            os.environ["XDG_DATA_HOME"] = before


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
    assert "fsync" in seen
    writes = [number for number, name in enumerate(seen) if name == "write"]
    others = [number for number, name in enumerate(seen) if name != "write"]
    return sorted({*writes[::stride], *others[:: 1 if stride == 1 else max(3, stride // 3)]})


def _old_or_new(start: Path, end: Path) -> Callable[[Path], None]:
    """Fails where a visible file is neither that of before nor that of after the command."""
    known = visible(start).items() | visible(end).items()

    def check(root: Path) -> None:
        found = {
            name: sha256 for name, sha256 in finished(root).items() if not Path(name).name.startswith(".")
        }
        assert found.items() <= known, f"half-written: {sorted(found.items() - known)}"

    return check
