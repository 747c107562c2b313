"""A whole toy data set with every kind of file, and damage done to it: flipped bits and cuts."""

import hashlib
import json
import random
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.exclusions import exclude
from ppod_data.format.sums import seal_table
from ppod_data.format.tables import LOG_PROBS, SAMPLES, part_name, read_table, write_table
from ppod_data.integrity.seal import seal
from ppod_data.labels.importing import import_labels
from ppod_data.pairs.rank import rank
from ppod_data.scoring.score import score
from tests.support.toy import make_dataset

FOLDERS = ("samples", "trajectories", "scores", "log_probs", "labels", "pairs")


class Brightness:
    """A reward that depends on the image alone: the sum of its pixels' values."""

    name, revision = "brightness", "1"

    def score(self, prompts: list[str], images: list[Any]) -> list[float]:
        return [float(sum(image.tobytes())) for image in images]


def make_whole(root: Path, *, sealed: bool, excluded: bool = True, **changes: Any) -> Dataset:
    """Samples, scores, log-probabilities, labels, pairs and an exclusion, sealed or without any seal."""
    dataset = make_dataset(root, **changes)
    score(dataset, Brightness(), name="brightness")
    rank(dataset, reward="brightness", name="brightness", strategy="all")
    spec = dataset.spec
    folder = root / "log_probs" / "again"
    for shard in range(spec.num_shards):
        ids = spec.shard_sample_ids(shard)
        values = [[-1.0, -2.0, -3.0, None]] * len(ids)
        table = pa.table({"sample_id": ids, "log_probs": values}, schema=LOG_PROBS)
        metadata = {**LOG_PROBS.metadata, b"ppod": b'{"policy_fingerprint":"f"}'}
        write_table(folder / part_name(shard), table.replace_schema_metadata(metadata))
    seal_table(folder, spec)
    _label(dataset)
    if excluded:
        last = dataset.samples(["sample_id"])["sample_id"].to_pylist()[-1]
        exclude(root, spec, [last], [], "taken down by its owner")
    if sealed:
        seal(root)
    else:
        for path in [*root.rglob("SHA256SUMS"), *root.rglob("*.sha256")]:
            path.unlink()
    return Dataset.open(root)


def spoil_image(part: Path) -> str:
    """Put bytes that are no image into the first row of a part of samples, with right checksums; return its id."""
    table = read_table(part, SAMPLES)
    rows = table.to_pylist()
    data = rows[0]["image"]["bytes"][:60]
    rows[0]["image"]["bytes"], rows[0]["image_sha256"] = data, hashlib.sha256(data).hexdigest()
    part.unlink()
    write_table(part, pa.Table.from_pylist(rows, schema=table.schema))
    return str(rows[0]["sample_id"])


def _label(dataset: Dataset) -> None:
    """What three people say of all pairs of a prompt: labels/people and pairs/people."""
    spec = dataset.spec
    rows = []
    for prompt_id, prompt in zip(spec.prompt_ids, spec.prompts, strict=True):
        ids = [spec.sample_id(prompt_id, k) for k in range(spec.num_images_per_prompt)]
        rows += [
            {"prompt": prompt, "a": a, "b": b, "label": label, "annotator": who}
            for a, b in combinations(ids, 2)
            for who, label in (("x", "a"), ("y", "b"), ("z", "a"))
        ]
    file = dataset.root.parent / f"{dataset.root.name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_labels(dataset, file, format="table", name="people")


@dataclass(frozen=True)
class Injection:
    """One damaged file: its bytes as they were and as they are now."""

    path: Path
    kind: str
    how: str
    whole: bytes
    damaged: bytes

    def __enter__(self) -> "Injection":
        self.path.write_bytes(self.damaged)
        return self

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(self.whole)


def kinds(root: Path) -> dict[str, list[Path]]:
    """The files that the toolkit answers for, by kind."""
    found: dict[str, list[Path]] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        top = path.relative_to(root).parts[0]
        if path.name == "SHA256SUMS" or path.suffix == ".sha256":
            found.setdefault("seals", []).append(path)
        elif path.name == ".salt":
            continue  # no part of the data set
        elif top in (*FOLDERS, "ppod.json", "exclusions.jsonl"):
            found.setdefault(top, []).append(path)
    return found


def inject(root: Path, chooser: random.Random) -> Injection:
    """Damage a random file of a random kind: a single flipped bit, or a cut anywhere (in a tar often at a block)."""
    by_kind = kinds(root)
    kind = chooser.choice(sorted(by_kind))
    path = chooser.choice(by_kind[kind])
    whole = path.read_bytes()
    if chooser.random() < 0.6:
        data = bytearray(whole)
        data[chooser.randrange(len(data))] ^= 1 << chooser.randrange(8)
        return Injection(path, kind, "flip", whole, bytes(data))
    length = chooser.randrange(len(whole))
    if path.suffix == ".tar" and chooser.random() < 0.5:
        length -= length % 512
    return Injection(path, kind, "cut", whole, whole[:length])


def everything(root: Path) -> dict[str, Any]:
    """All that our readers give of a data set, each through the reader that training or a user would use."""
    dataset = Dataset.open(root)
    values: dict[str, Any] = {"manifest": dict(dataset.manifest), "excluded": dict(dataset.excluded)}
    values["samples"] = dataset.samples().to_pylist()
    for row in dataset.trajectory_index([row["sample_id"] for row in values["samples"]]).to_pylist():
        chain = dataset.read_trajectory(row)
        values[row["sample_id"]] = (chain.latent_index, chain.latents.numpy().tobytes(), chain.log_probs)
    for name, table in (
        ("scores", dataset.scores("brightness")),
        ("log_probs", dataset.log_probs("again")),
        ("labels", dataset.labels("people")),
        ("pairs", dataset.pairs("brightness")),
        ("pairs of people", dataset.pairs("people")),
    ):
        values[name] = (table.to_pylist(), table.schema.metadata)
    return values
