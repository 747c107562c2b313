"""Measurement of the pipeline: how often images show every fact of their prompt, as read by the two scorers."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ppod_data.scenes.captions import KINDS, PAPER_PROMPTS, all_prompts
from ppod_data.scenes.scoring import SceneScorer

STEPS = 20
_BATCH = 64


def sample_images(
    pipeline: Any, prompts: Sequence[str], seed: int, guidance_scale: float = 1.0
) -> list[Image.Image]:
    """Sample one image a prompt: DDIM, 20 steps, eta 1."""
    generator = torch.Generator().manual_seed(seed)
    pipeline.set_progress_bar_config(disable=True)
    images: list[Image.Image] = []
    for start in range(0, len(prompts), _BATCH):
        images += pipeline(
            list(prompts[start : start + _BATCH]),
            num_inference_steps=STEPS,
            guidance_scale=guidance_scale,
            eta=1.0,
            generator=generator,
        ).images
    return images


def measure(pipeline: Any, scorers: Sequence[SceneScorer], images_each: int, seed: int) -> dict[str, Any]:
    """Return the fully correct shares of each prompt and kind by scorer, and the scorers' agreement."""
    groups = {prompt: [prompt] * images_each for prompt in PAPER_PROMPTS}
    for kind in KINDS:
        prompts_of_kind = all_prompts(kind)
        groups[kind] = [prompts_of_kind[i % len(prompts_of_kind)] for i in range(images_each)]
    correct: dict[str, dict[str, float]] = {}
    agreements: list[float] = []
    for index, (name, prompts) in enumerate(groups.items()):
        images = sample_images(pipeline, prompts, seed + index)
        answers = [scorer.correct(prompts, images) for scorer in scorers]
        correct[name] = {
            scorer.name: round(statistics.fmean(answer), 4)
            for scorer, answer in zip(scorers, answers, strict=True)
        }
        agreements += [float(len(set(row)) == 1) for row in zip(*answers, strict=True)]
    return {
        "images_each": images_each,
        "num_inference_steps": STEPS,
        "ddim_eta": 1.0,
        "guidance_scale": 1.0,
        "fully_correct": correct,
        "scorers_agree": round(statistics.fmean(agreements), 4),
    }


def unet_milliseconds(pipeline: Any, batch_size: int = 64, repeats: int = 10) -> float:
    """Return the median time of one UNet call for one sample, in milliseconds, with torch's current threads."""
    latents = torch.randn(batch_size, 4, 8, 8)
    words = torch.randn(batch_size, 16, pipeline.unet.config.cross_attention_dim)
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.perf_counter()
            pipeline.unet(latents, 500, words)
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times) / batch_size
