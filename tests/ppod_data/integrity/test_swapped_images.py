"""Images that are not those of their trajectories, with every hash right: found by decoding x_0 again."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.format.images import decode_image, encode_png, pixels_sha256
from ppod_data.format.tables import SAMPLES, read_table, write_table
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.integrity.check_images import other_images
from ppod_data.integrity.replay import replay


@pytest.fixture
def dataset(tiny_model: DiffusionModel, tmp_path: Path) -> Dataset:
    options = {"num_images_per_prompt": 4, "num_inference_steps": 2, "batch_size": 4, "images_per_shard": 4}
    generate(
        tmp_path / "d", build_spec(tiny_model, prompts=("a cat",), seed=0, **options), tiny_model, shards=[0]
    )
    return Dataset.open(tmp_path / "d")


def change_images(dataset: Dataset, change: Callable[[list[bytes]], list[bytes]]) -> list[str]:
    """Write other images into the first shard, as a stranger who knows the format; its sample_ids."""
    import hashlib

    path = dataset.root / "samples" / "000000.parquet"
    table = read_table(path, SAMPLES)
    rows = table.to_pylist()
    for row, data in zip(rows, change([row["image"]["bytes"] for row in rows]), strict=True):
        row["image"]["bytes"] = data
        row["image_sha256"] = hashlib.sha256(data).hexdigest()
        row["image_pixels_sha256"] = pixels_sha256(decode_image(data))
    write_table(path, pa.Table.from_pylist(rows, schema=table.schema), 64)
    return [row["sample_id"] for row in rows]


def shifted(data: bytes, levels: int) -> bytes:
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16)
    return encode_png(Image.fromarray(np.clip(pixels + levels, 0, 255).astype(np.uint8)))


def test_the_images_of_their_trajectories_are_fine(dataset: Dataset, tiny_model: DiffusionModel) -> None:
    assert replay(dataset, tiny_model, num_trajectories=4).other_images == ()


def test_an_image_of_something_else_is_found(dataset: Dataset, tiny_model: DiffusionModel) -> None:
    def change(images: list[bytes]) -> list[bytes]:
        return [images[0], encode_png(Image.new("RGB", decode_image(images[1]).size, "red")), *images[2:]]

    ids = change_images(dataset, change)
    assert replay(dataset, tiny_model, num_trajectories=4).other_images == (ids[1],)


def test_a_difference_of_rounding_is_none(dataset: Dataset, tiny_model: DiffusionModel) -> None:
    change_images(dataset, lambda images: [shifted(data, 1) for data in images])
    assert replay(dataset, tiny_model, num_trajectories=4).other_images == ()


def test_nothing_is_compared_where_x_0_is_not_stored(tiny_model: DiffusionModel, tmp_path: Path) -> None:
    options = {
        "num_images_per_prompt": 2,
        "num_inference_steps": 4,
        "store_steps": "every:2",
        "batch_size": 2,
    }
    generate(tmp_path / "d", build_spec(tiny_model, prompts=("a",), **options), tiny_model, shards=[0])
    found = replay(Dataset.open(tmp_path / "d"), tiny_model, num_trajectories=2)
    assert found.other_images == () and found.num_trajectories == 2
    assert other_images(tiny_model, Dataset.open(tmp_path / "d").spec, [], {}) == []
