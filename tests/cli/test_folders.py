"""Two folders of winners and losers become a data set, pairs and a policy by the commands alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from ppod_cli import pair, train

from ppod_data.dataset.dataset import Dataset
from tests.support.command import call
from tests.support.foreign_cases import picture
from tests.support.pipelines import save_tiny_sd3_pipeline


def write(folder: Path, *, losers: str = "losers") -> Path:
    """Write three pairs of two prompts, one of them in a subfolder."""
    for number, (name, prompt) in enumerate({"a": "a cat", "b": "a cat", "more/c": "two dogs"}.items()):
        for side, suffix, seed in (("winners", "png", number), (losers, "jpg", 10 + number)):
            file = folder / side / f"{name}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(seed, kind="PNG" if suffix == "png" else "JPEG"))
        beside = "winners" if number else losers
        (folder / beside / f"{name}.txt").write_text(f"{prompt}\n")
    return folder


def write_stale(folder: Path) -> None:
    """Write a pair's image and caption into a hidden folder."""
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(20, kind="PNG"))
    (folder / "a.txt").write_text("a stale cat")


def succeed(app: Any, *arguments: object) -> dict[str, Any]:
    done = call(app, *arguments, "--json")
    assert done.code == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def test_from_two_folders_to_policies_of_a_flow_matching_model(tmp_path: Path) -> None:
    folder, root = write(tmp_path / "pictures", losers="rejected"), tmp_path / "data"
    for side in ("winners", "rejected"):
        write_stale(folder / side / ".ipynb_checkpoints")
    model = save_tiny_sd3_pipeline(tmp_path / "model")
    options = ("--format", "folders", "--model", model, "--num-inference-steps", 3)
    made = succeed(pair.app, "import", root, folder, *options)
    assert (made["made"]["num_made"], made["num_records"], made["num_pairs"]) == (6, 3, 3)
    dataset = Dataset.open(root)
    assert set(dataset.spec.prompts) == {"a cat", "two dogs"}
    images = {
        row["sample_id"]: row["image"]["bytes"] for row in dataset.samples(["sample_id", "image"]).to_pylist()
    }
    assert {images[row] for row in dataset.pairs("folders")["chosen_id"].to_pylist()} == {
        (folder / "winners" / f"{name}.png").read_bytes() for name in ("a", "b", "more/c")
    }
    for objective in ("ppod", "diffusion-dpo"):
        words = (
            "offline",
            root,
            "--pairs",
            "folders",
            "--out",
            tmp_path / objective,
            "--objective",
            objective,
        )
        few = ("--num-train-steps", 2, "--pairs-per-step", 2, "--lora-rank", 2, "--eval-every", 0)
        assert succeed(train.app, *words, *few)["steps"] == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "winners/b.txt").unlink(),
            "winners/b.png:1: no caption: write the prompt into b.txt",
        ),
        (lambda root: (root / "losers/b.txt").write_text("a dog"), "winners/b.png:1: two captions"),
        (lambda root: (root / "losers/b.jpg").unlink(), "winners/b.png:1: no image of this name in losers"),
        (lambda root: (root / "winners/b.png").unlink(), "losers/b.jpg:1: no winner of this name"),
        (lambda root: (root / "winners").rename(root / "good"), "needs one folder winners or winner"),
        (lambda root: (root / "loser").mkdir(), "needs one folder losers or loser or rejected, and has 2"),
    ],
)
def test_what_is_no_pair_is_named(spoil: Any, message: str, tmp_path: Path, tiny_pipeline: Path) -> None:
    folder = write(tmp_path / "pictures")
    spoil(folder)
    options = ("--format", "folders", "--model", tiny_pipeline, "--num-inference-steps", 2)
    failed = call(pair.app, "import", tmp_path / "data", folder, *options)
    assert failed.code == 2 and message in failed.one_error()
    assert not (tmp_path / "data").exists()
