"""A data set with the latents of Stable Diffusion's size, made without a model: what is measured is files."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from ppod_data.dataset.dataset import Dataset, create
from ppod_data.diffusion.ddim import ddim_config
from ppod_data.format.images import encode_png, pixels_sha256
from ppod_data.format.shards import Sample, ShardWriter
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.trajectory import encode_latents

STEPS = 50
SHAPE = (4, 64, 64)
IMAGES_PER_SHARD = 64


def make_spec(images: int, images_per_shard: int = IMAGES_PER_SHARD) -> GenerationSpec:
    """One prompt, shards of 64 unless said otherwise."""
    return GenerationSpec(
        model="none",
        revision=None,
        adapter=None,
        policy_fingerprint="0" * 64,
        scheduler=ddim_config("DDIMScheduler", {"beta_schedule": "scaled_linear"}),
        prompts=("a cat and a dog",),
        negative_prompt="",
        num_images_per_prompt=images,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        guidance_mode="batched",
        ddim_eta=1.0,
        initial_noise="per-image",
        seed=0,
        stage=0,
        purpose="train",
        batch_size=8,
        images_per_shard=images_per_shard,
        compute_dtype="fp32",
        latent_dtype="fp32",
        store_steps="all",
        height=512,
        width=512,
        latent_shape=SHAPE,
    )


def black(index: int) -> Image.Image:
    """Return the smallest picture."""
    return Image.new("RGB", (512, 512))


def make_dataset(
    root: Path,
    images: int,
    picture: Callable[[int], Image.Image] = black,
    images_per_shard: int = IMAGES_PER_SHARD,
) -> Dataset:
    """Chains of noise: random numbers do not compress, as latents do not."""
    dataset = create(root, make_spec(images, images_per_shard))
    spec = dataset.spec
    torch.manual_seed(0)
    for shard in range(spec.num_shards):
        with ShardWriter(root, shard) as writer:
            for k in spec.shard_range(shard):
                image = picture(k)
                writer.add(
                    Sample(
                        sample_id=spec.sample_id(spec.prompt_ids[0], k),
                        prompt_id=spec.prompt_ids[0],
                        prompt=spec.prompts[0],
                        image_index=k,
                        seed=spec.seed,
                        image_bytes=encode_png(image),
                        image_pixels_sha256=pixels_sha256(image),
                        timesteps=list(range(981, -19, -20)),
                        stochastic=[True] * STEPS,
                        log_probs=[-1.0] * STEPS,
                        step_index=list(range(STEPS)),
                        latents_safetensors=encode_latents(
                            torch.randn(STEPS + 1, *SHAPE), list(range(STEPS + 1))
                        ),
                    )
                )
    return dataset
