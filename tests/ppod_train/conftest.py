"""A small recorded data set with pairs and scores, made by the real generator and scorer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_data.format.images import decode_image
from ppod_data.format.tables import PAIRS, write_table
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.scoring.score import score
from ppod_data.storage.files import DataPath
from ppod_train.data.training_data import DataSource
from tests.support.models import load_again

PROMPTS = ("a cat", "two dogs")


class Redness:
    """A reward that needs no weights: the mean of the red channel, in [0, 1]."""

    name = "redness"
    revision = "1"

    def score(self, prompts: Any, images: Any) -> list[float]:
        return [sum(image.getchannel("R").getdata()) / (255 * image.width * image.height) for image in images]


def write_pairs(dataset: Dataset, *, count: int = 12, name: str = "pairs") -> None:
    """Pairs of neighbours by redness within each prompt; trajectories are shared by several pairs."""
    rows = dataset.samples(["sample_id", "prompt_id", "image"]).to_pylist()
    scores = {
        row["sample_id"]: Redness().score([""], [decode_image(row["image"]["bytes"])])[0] for row in rows
    }
    pairs = []
    for prompt_id in dataset.spec.prompt_ids:
        ids = sorted(
            (row["sample_id"] for row in rows if row["prompt_id"] == prompt_id), key=scores.__getitem__
        )
        for i in range(min(count // len(dataset.spec.prompt_ids), len(ids) - 1)):
            low, high = ids[i], ids[i + 1]
            pairs.append(
                {
                    "pair_id": f"{prompt_id[:8]}{i}",
                    "prompt_id": prompt_id,
                    "chosen_id": high,
                    "rejected_id": low,
                    "label": 1.0,
                    "margin": scores[high] - scores[low],
                    "source": "reward:redness",
                    "votes": None,
                }
            )
    (dataset.root / "pairs").mkdir(exist_ok=True)
    write_table(dataset.root / "pairs" / f"{name}.parquet", pa.Table.from_pylist(pairs, schema=PAIRS))


def write_scores(dataset: Dataset) -> None:
    """Redness as the score of every sample."""
    score(dataset, Redness(), name="redness")


def source_of(*roots: DataPath, pairs: str = "pairs", reference_log_probs: str | None = None) -> DataSource:
    """Everything of some recorded data sets: their pairs, and their scores by redness."""
    return DataSource(roots=roots, pairs=pairs, scores="redness", reference_log_probs=reference_log_probs)


def record(root: Path, model: DiffusionModel, **options: Any) -> Dataset:
    """Generate 16 images of two prompts in 4 steps, with 12 pairs and scores."""
    defaults = {"num_images_per_prompt": 8, "num_inference_steps": 4, "batch_size": 8, "guidance_scale": 1.0}
    spec = build_spec(model, prompts=PROMPTS, **(defaults | options))
    generate(root, spec, model, shards=range(spec.num_shards))
    dataset = Dataset.open(root)
    write_pairs(dataset)
    write_scores(dataset)
    return dataset


@pytest.fixture(scope="session")
def record_dataset() -> Callable[..., Dataset]:
    """`record`: (root, model, **options) -> Dataset."""
    return record


@pytest.fixture(scope="session")
def recorded(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recorded data set with pairs named "pairs"."""
    root = tmp_path_factory.mktemp("data") / "recorded"
    record(root, load_model(str(tiny_pipeline)))
    return root


@pytest.fixture(scope="session")
def redness() -> Redness:
    return Redness()


@pytest.fixture
def fresh_model(tiny_pipeline: Path) -> DiffusionModel:
    """The tiny pipeline, loaded anew: training changes it in place."""
    return load_again(tiny_pipeline)
