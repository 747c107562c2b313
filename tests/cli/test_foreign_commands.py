"""From a Pick-a-Pic file with its pictures to a trained adapter, by the commands alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from ppod_cli import data as data_commands
from ppod_cli import pair, train

from ppod_data.dataset.dataset import Dataset
from tests.support.command import call
from tests.support.foreign_cases import picture, row, rows, write_parquet


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    """Six comparisons of two named people in the public schema."""
    named = [one | {"user_id": place % 2} for place, one in enumerate(rows())]
    return write_parquet(tmp_path / "votes.parquet", named)


def succeed(app: Any, *arguments: object) -> dict[str, Any]:
    done = call(app, *arguments, "--json")
    assert done.code == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def test_from_a_file_of_pictures_to_a_policy(votes: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    arguments = ("import", root, votes, "--format", "pickapic", "--model", tiny_pipeline)
    arguments += ("--num-inference-steps", 4, "--license", "MIT")
    found = succeed(pair.app, *arguments)
    assert found["made"]["num_samples"] == found["made"]["num_made"] == 9
    assert (found["num_records"], found["num_ties"], found["num_pairs"]) == (6, 1, 5)
    dataset = Dataset.open(root)
    assert dataset.manifest["license"] == "MIT" and dataset.spec.guidance_scale == 1.0
    assert len(set(dataset.labels("pickapic")["annotator"].to_pylist())) == 2

    again = succeed(pair.app, *arguments)
    assert again["made"]["num_made"] == 0 and again["num_pairs"] == 5

    assert "drawn onto them" in call(data_commands.app, "info", root).stdout
    assert call(data_commands.app, "verify", root, "--read-data", "--model", tiny_pipeline).code == 0
    assert call(data_commands.app, "seal", root).code == 0
    trained = succeed(
        train.app,
        *("offline", root, "--pairs", "pickapic", "--out", tmp_path / "run", "--eval-every", 0),
        *("--num-train-steps", 2, "--pairs-per-step", 4),
    )
    assert trained["steps"] == 2
    assert (tmp_path / "run" / "policy" / "pytorch_lora_weights.safetensors").is_file()


def test_what_people_read_says_what_to_do_next(
    votes: Path, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("import", "data", votes.name, "--format", "pickapic", "--model", tiny_pipeline)
    done = call(pair.app, *words, "--num-inference-steps", 2)
    assert done.code == 0, done.stderr
    assert done.stdout.splitlines() == [
        "data: 9 images of 3 prompts, each with a chain drawn onto it",
        "data/labels/pickapic.parquet: 6 labels from 6 records, 1 of them ties",
        "data/pairs/pickapic.parquet: 5 pairs on overall",
        "next: ppod-train offline data --pairs pickapic --eval-every 0 --out run",
    ]
    assert "shard 000000 made (9 of 9 images" in done.stderr


def test_rows_without_pictures_are_rejects(votes: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    write_parquet(votes, [*rows(), row("a cat", None, picture(1))])
    arguments = ("import", tmp_path / "data", votes, "--format", "pickapic", "--model", tiny_pipeline)
    failed = call(pair.app, *arguments)
    assert failed.code == 2 and "has no bytes in the file" in failed.one_error()
    assert not (tmp_path / "data").exists()
    assert succeed(pair.app, *arguments, "--skip-bad", "--num-inference-steps", 2)["num_rejected"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no such folder: name the data set that the images are from, or make one of the file's images"),
        (("--seed", "1"), "--seed says how chains of new images are made: give --model as well"),
        (("--batch-size", "64"), "--batch-size says how chains of new images are made"),
        (("--model", "scenes", "--ddim-eta", "0"), "must be above 0"),
        (("--model", "nothing"), "unknown model nothing"),
    ],
)
def test_mistakes_are_one_line_and_make_nothing(
    votes: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    failed = call(pair.app, "import", tmp_path / "data", votes, "--format", "pickapic", *words)
    assert failed.code == 2 and message in failed.one_error()
    assert not (tmp_path / "data").exists()


def test_labels_on_other_images_are_told_of_the_option(
    votes: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    words = ("--format", "pickapic", "--model", tiny_pipeline, "--num-inference-steps", 2)
    assert call(pair.app, "import", tmp_path / "data", votes, *words).code == 0
    other = write_parquet(tmp_path / "other.parquet", [row("a cat", picture(90), picture(91))])
    failed = call(pair.app, "import", tmp_path / "data", other, "--format", "pickapic", "--name", "x")
    assert "give a new folder, and with --model the model to train" in failed.one_error()
