"""Claim: scoring a data set costs at most 1.05 times the reward model's bare calls on decoded images.

The images of a data set are read, decoded, checked and scored by `ppod_data.score`, and the same images, decoded
before, are scored by the same reward model in the same batches of 32. The model is a CLIP of random weights, smaller than the
published ones (ViT, 8 layers of 384, 14-pixel patches of 224-pixel images); its own preprocessing is part of both. The
images are of 512 × 512 pixels, as Stable Diffusion makes them.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from side_by_side import Report, is_quick, measure, ratios

from ppod_data.dataset import Dataset, create
from ppod_data.images import decode_image, encode_png, pixels_sha256
from ppod_data.rewards import RewardModel
from ppod_data.rewards.clip import Clip, ClipReward
from ppod_data.score import score
from ppod_data.shards import ShardWriter
from tests.conftest import byte_tokenizer
from tests.data.toy import make_sample, make_spec

BATCH = 32


def small_clip(folder: Path) -> ClipReward:
    """A reward of the real classes."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    text = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 514}
    text |= {
        "intermediate_size": 256,
        "max_position_embeddings": 16,
        "bos_token_id": 512,
        "eos_token_id": 513,
    }
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6}
    vision |= {"image_size": 224, "patch_size": 14}
    config = CLIPConfig(text_config=text | {"pad_token_id": 513}, vision_config=vision, projection_dim=64)
    processor = CLIPImageProcessorPil()

    def pixels(images: object) -> torch.Tensor:
        found: torch.Tensor = processor(images=list(images), return_tensors="pt")["pixel_values"]  # type: ignore[call-overload]
        return found.float()

    tokenizer = byte_tokenizer(CLIPTokenizer, folder / "tokenizer")
    return ClipReward("clip", "1", Clip(CLIPModel(config).eval().requires_grad_(False), tokenizer, pixels))


def make_images(root: Path, count: int) -> Dataset:
    """A data set of smooth pictures with some grain."""
    spec = make_spec(num_images_per_prompt=count // 2, images_per_shard=count)
    dataset = create(root, spec)
    generator = torch.Generator().manual_seed(0)
    with ShardWriter(root, 0) as writer:
        for index in range(count):
            coarse = torch.rand(8, 8, 3, generator=generator).mul(255).to(torch.uint8).numpy()
            smooth = Image.fromarray(coarse).resize((512, 512), Image.Resampling.BICUBIC)
            noise = torch.randint(0, 8, (512, 512, 3), generator=generator, dtype=torch.uint8).numpy()
            image = Image.blend(smooth, Image.fromarray(noise), 0.1)
            sample = make_sample(spec, index)
            changed = {"image_png": encode_png(image), "image_pixels_sha256": pixels_sha256(image)}
            writer.add(type(sample)(**{**sample.__dict__, **changed}))
    return dataset


def bare_calls(dataset: Dataset, reward: RewardModel) -> Callable[[], None]:
    rows = dataset.samples(["prompt", "image"]).to_pylist()
    prompts = [row["prompt"] for row in rows]
    images = [decode_image(row["image"]["bytes"]) for row in rows]

    def run() -> None:
        for first in range(0, len(images), BATCH):
            reward.score(prompts[first : first + BATCH], images[first : first + BATCH])

    return run


def whole(dataset: Dataset, reward: RewardModel) -> Callable[[], None]:
    def run() -> None:
        shutil.rmtree(dataset.root / "scores", ignore_errors=True)
        score(dataset, reward, name="clip", batch_size=BATCH)

    return run


def main() -> None:
    quick = is_quick(__doc__)
    torch.set_num_threads(1)
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        reward = small_clip(Path(folder))
        dataset = make_images(Path(folder) / "data", 4 if quick else 64)
        seconds = measure(
            {"score": whole(dataset, reward), "bare": bare_calls(dataset, reward)}, rounds=1 if quick else 5
        )
    for clock, of in seconds.items():
        report.add(
            f"score / the bare calls of the reward model, {clock} time",
            ratios(of["score"], of["bare"]),
            bound=1.05 if clock == "processor" else None,
        )
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
