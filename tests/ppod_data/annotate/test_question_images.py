"""One part of the samples that cannot be read does not keep people from the questions about other parts."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ppod_data.annotate.app import label_app
from ppod_data.annotate.question_images import read_question_images
from ppod_data.annotate.questions import read_questions
from ppod_data.annotate.session import open_session
from ppod_data.dataset.dataset import Dataset
from tests.support.damage import spoil_image
from tests.support.refused import fail_to_read
from tests.support.toy import make_dataset


def flip(path: Path) -> None:
    """Flip a bit of an image."""
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Cut off the footer."""
    os.truncate(path, path.stat().st_size // 2)


EVERY_WAY = pytest.mark.parametrize("damage", [flip, cut, fail_to_read])


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two prompts of three images; each prompt is a part of its own."""
    return make_dataset(tmp_path / "data", images_per_shard=3)


def part(dataset: Dataset, shard: int) -> Path:
    assert isinstance(dataset.root, Path)
    return dataset.root / "samples" / f"{shard:06d}.parquet"


@pytest.fixture
def client(dataset: Dataset, tmp_path: Path) -> Iterator[TestClient]:
    session = open_session(tmp_path / "answers", read_questions(dataset, size=2, count=50, seed=0))
    app = label_app(dataset, session, title="toy")
    yield TestClient(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False)
    session.close()


def label(client: TestClient, name: str, told: dict[str, Any] | None = None) -> list[frozenset[str]]:
    """Answer every question from `told` on. Return the images of each question."""
    asked = []
    told = told or client.post("/api/next", json={"annotator": name}).json()
    while told["prompt"] is not None:
        asked.append(frozenset(told["shown"]))
        assert all(client.get(f"/image/{shown}").status_code == 200 for shown in told["shown"])
        answer = {key: told[key] for key in ("number", "shown", "ticket")} | {"annotator": name, "answer": 0}
        reply = client.post("/api/answer", json=answer)
        assert reply.status_code == 200, reply.text
        told = reply.json()
    return asked


@EVERY_WAY
def test_questions_about_a_part_that_cannot_be_read_are_left_out_and_the_part_is_named_once(
    dataset: Dataset, client: TestClient, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    damage(part(dataset, 0))
    readable = set(dataset.spec.shard_sample_ids(1))
    asked = label(client, "anna")
    assert len(set(asked)) == 3 and all(shown <= readable for shown in asked)
    assert label(client, "bert") == []
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("left out: ") and "000000.parquet" in line


@EVERY_WAY
def test_a_part_that_is_damaged_while_people_label_loses_no_answer(
    dataset: Dataset, client: TestClient, damage: Callable[[Path], None]
) -> None:
    shards = [set(dataset.spec.shard_sample_ids(shard)) for shard in range(2)]
    told = client.post("/api/next", json={"annotator": "anna"}).json()
    [other] = (shard for shard in range(2) if not shards[shard].intersection(told["shown"]))
    damage(part(dataset, other))
    asked = label(client, "anna", told)
    assert len(set(asked)) == 3 and not shards[other].intersection(*asked)
    assert client.post("/api/next", json={"annotator": "anna"}).json()["number"] == 3


def test_an_answer_about_images_that_were_damaged_after_they_were_shown_is_kept(
    dataset: Dataset, client: TestClient
) -> None:
    shown = {name: client.post("/api/next", json={"annotator": name}).json() for name in ("anna", "bert")}
    shards = [set(dataset.spec.shard_sample_ids(shard)) for shard in range(2)]
    [damaged] = (shard for shard in range(2) if shards[shard].issuperset(shown["bert"]["shown"]))
    flip(part(dataset, damaged))
    assert len(label(client, "anna", shown["anna"])) == 3
    answer = {key: shown["bert"][key] for key in ("number", "shown", "ticket")}
    reply = client.post("/api/answer", json={"annotator": "bert", **answer, "answer": 0})
    assert reply.status_code == 200 and reply.json()["number"] == 1


def test_when_the_system_refuses_every_part_no_question_is_lost(
    dataset: Dataset, client: TestClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when this process has too many open files for a moment."""
    for shard in range(2):
        part(dataset, shard).rename(tmp_path / f"{shard}")
        part(dataset, shard).symlink_to("/proc/self/mem")  # reads fail with EIO
    for _ in range(2):
        reply = client.post("/api/next", json={"annotator": "anna"})
        assert reply.status_code == 400 and reply.json()["error"].startswith("the images cannot be read: ")
    for shard in range(2):
        part(dataset, shard).unlink()
        (tmp_path / f"{shard}").rename(part(dataset, shard))
    assert len(set(label(client, "anna"))) == 6
    assert capsys.readouterr().err == ""


def test_each_image_that_cannot_be_shown_has_a_reason(dataset: Dataset) -> None:
    spec = dataset.spec
    damaged = spoil_image(part(dataset, 0))
    part(dataset, 1).unlink()
    first, second = spec.shard_sample_ids(0), spec.shard_sample_ids(1)[0]
    images, unreadable = read_question_images(dataset, [*first, second])
    assert images.keys() == set(first) - {damaged}
    assert [each.sample_ids for each in unreadable] == [{damaged}, {second}]
    assert unreadable[0].reason.startswith(f"{dataset.root}: sample {damaged}: cannot decode this image")
    assert unreadable[1].reason == f"{dataset.root}: sample {second}: the image is missing"
