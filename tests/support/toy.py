"""A data set of random latents and noise images, made in milliseconds without a model."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ppod_data.dataset.dataset import Dataset, create
from ppod_data.format.images import encode_png, pixels_sha256
from ppod_data.format.shards import Sample, ShardWriter
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.trajectory import encode_latents, latent_rows

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_spec(**changes: Any) -> GenerationSpec:
    """Two prompts, three images each, four steps, two shards; any field can be changed."""
    fields: dict[str, Any] = {
        "model": "scenes",
        "revision": None,
        "adapter": None,
        "policy_fingerprint": "f" * 64,
        "scheduler": {"_class_name": "DDIMScheduler", "beta_end": 0.012, "set_alpha_to_one": False},
        "prompts": ("a cat and a dog", "zwölf grüne Hasen 🐇"),
        "negative_prompt": "",
        "num_images_per_prompt": 3,
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "guidance_mode": "batched",
        "ddim_eta": 1.0,
        "initial_noise": "per-image",
        "seed": 0,
        "stage": 0,
        "purpose": "train",
        "batch_size": 2,
        "images_per_shard": 4,
        "compute_dtype": "fp32",
        "latent_dtype": "fp32",
        "store_steps": "all",
        "height": 16,
        "width": 24,
        "latent_shape": (4, 2, 3),
    }
    return GenerationSpec(**fields | changes)


def make_sample(spec: GenerationSpec, index: int, salt: int = 0) -> Sample:
    """Sample `index` of the spec; another salt is another machine's slightly different latents."""
    prompt, k = divmod(index, spec.num_images_per_prompt)
    prompt_id = spec.prompt_ids[prompt]
    generator = torch.Generator().manual_seed(1_000_000 * salt + index)
    pixels = torch.randint(0, 256, (spec.height, spec.width, 3), generator=generator, dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    steps = list(spec.stored_steps())
    rows = latent_rows(steps)
    chain = torch.randn(spec.num_inference_steps + 1, *spec.latent_shape, generator=generator)
    count = spec.num_inference_steps
    stochastic = [i < count - 1 and i in spec.noisy_range for i in range(count)]
    return Sample(
        sample_id=spec.sample_id(prompt_id, k),
        prompt_id=prompt_id,
        prompt=spec.prompts[prompt],
        image_index=k,
        seed=spec.seed,
        image_bytes=encode_png(image),
        image_pixels_sha256=pixels_sha256(image),
        timesteps=[1000 // count * (count - 1 - i) + 1 for i in range(count)],
        stochastic=stochastic,
        log_probs=[-1.5 + 0.1 * i if stochastic[i] else None for i in range(count)],
        step_index=steps,
        latents_safetensors=encode_latents(chain[rows].to(TORCH_DTYPES[spec.latent_dtype]), rows),
    )


def write_shard(root: Path, spec: GenerationSpec, shard: int, salt: int = 0) -> ShardWriter:
    """Commit one shard; the writer says whether it was the first."""
    with ShardWriter(root, shard) as writer:
        for index in spec.shard_range(shard):
            writer.add(make_sample(spec, index, salt))
    return writer


def make_dataset(root: Path, **changes: Any) -> Dataset:
    """A complete data set in the new folder `root`."""
    dataset = create(root, make_spec(**changes))
    for shard in range(dataset.spec.num_shards):
        write_shard(root, dataset.spec, shard)
    return dataset


def files(root: Path) -> dict[str, bytes]:
    """Every file under `root`, hidden ones too, by its relative name."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def flip(path: Path, offset: int) -> None:
    """Flip one bit of a file in place."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
