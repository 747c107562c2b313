"""Claim: scoring a data set costs at most 1.05 times the reward model's bare calls on decoded images.

The images of a data set are read, decoded, checked and scored by `ppod_data.scoring.score`, and the same images,
decoded before, are scored by the same reward model in the same batches of 16. The model is a CLIP ViT-B/16 of random
weights, a fifth of the work of the smallest reward that the command knows by name (ViT-L/14); its own preprocessing is
part of both. The images are of 512 × 512 pixels, as Stable Diffusion makes them.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from large_latents import make_dataset
from PIL import Image
from side_by_side import Report, is_quick, measure, ratios

from ppod_data.dataset.dataset import Dataset
from ppod_data.format.images import decode_image
from ppod_data.rewards import RewardModel
from ppod_data.rewards.clip import Clip, ClipReward
from ppod_data.scoring.score import score

BATCH = 16


def random_clip() -> ClipReward:
    """Return a reward of the real classes, with the embedded model's tokenizer."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizerFast

    from ppod_data.scenes import PIPELINE_PATH

    tokenizer = CLIPTokenizerFast.from_pretrained(PIPELINE_PATH / "tokenizer")
    text = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    text |= {"max_position_embeddings": 16, "vocab_size": len(tokenizer)}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    vision |= {"image_size": 224, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512)).eval()
    processor = CLIPImageProcessorPil()

    def pixels(images: Sequence[Image.Image]) -> torch.Tensor:
        found: torch.Tensor = processor(images=list(images), return_tensors="pt")["pixel_values"]
        return found.float()

    return ClipReward("clip", "1", Clip(model.requires_grad_(False), tokenizer, pixels))


def picture(index: int) -> Image.Image:
    """Smooth colours with some grain: about as many bytes as a PNG of a photograph."""
    random = np.random.Generator(np.random.Philox(index))
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
    grain = random.integers(-4, 5, (512, 512, 3))
    smooth = np.asarray(coarse.resize((512, 512), Image.Resampling.BICUBIC), np.int64)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def bare_calls(dataset: Dataset, reward: RewardModel) -> Callable[[], None]:
    """Return bare calls of the reward on decoded images."""
    rows = dataset.samples(["prompt", "image"]).to_pylist()
    prompts = [row["prompt"] for row in rows]
    images = [decode_image(row["image"]["bytes"]) for row in rows]

    def run() -> None:
        for first in range(0, len(images), BATCH):
            reward.score(prompts[first : first + BATCH], images[first : first + BATCH])

    return run


def whole(dataset: Dataset, reward: RewardModel) -> Callable[[], None]:
    """Return a run of `score` without an earlier table."""

    def run() -> None:
        shutil.rmtree(dataset.root / "scores", ignore_errors=True)
        score(dataset, reward, name="clip", batch_size=BATCH)

    return run


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    torch.set_num_threads(1)
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        reward = random_clip()
        dataset = make_dataset(Path(folder) / "data", 4 if quick else 32, picture)
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
