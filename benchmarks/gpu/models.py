"""Full-size pipelines with random weights, built in memory on a device: nothing is downloaded and nothing is read."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.support.precision import set_gpu_numerics
from ppod_data.support.runtime import quiet_pipelines
from tests.support import full_size
from tests.support.pipelines import (
    save_tiny_flux_pipeline,
    save_tiny_pipeline,
    save_tiny_sd3_pipeline,
    save_tiny_xl_pipeline,
)

PROMPT = "a cat and a dog"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and how much of it is run. Samples are few: numbers and memory are checked, not images."""

    title: str
    save: Callable[[Path], object]
    """Writes the pipeline's configurations."""
    save_tiny: Callable[[Path], object]
    """Writes a tiny pipeline of the same class, for a CPU."""
    dtypes: tuple[str, ...]
    """Compute dtypes; the first is the one that is timed."""
    steps: int
    batch: int
    """Latents in one network call of sampling."""
    checkpointing: bool
    """Recompute activations in the backward pass."""


CASES: dict[str, Case] = {
    "sd15": Case(
        title="Stable Diffusion 1.5, 512²",
        save=full_size.save_stable_diffusion_15,
        save_tiny=save_tiny_pipeline,
        dtypes=("fp16", "bf16", "fp32"),
        steps=10,
        batch=8,
        checkpointing=False,
    ),
    "sdxl": Case(
        title="Stable Diffusion XL, 1024²",
        save=full_size.save_stable_diffusion_xl,
        save_tiny=save_tiny_xl_pipeline,
        dtypes=("fp16", "bf16", "fp32"),
        steps=10,
        batch=4,
        checkpointing=True,
    ),
    "sd35": Case(
        title="Stable Diffusion 3.5 medium, 1024²",
        save=full_size.save_stable_diffusion_35_medium,
        save_tiny=save_tiny_sd3_pipeline,
        dtypes=("fp16", "bf16", "fp32"),
        steps=10,
        batch=4,
        checkpointing=True,
    ),
    "flux": Case(
        title="FLUX.1-dev, 1024²",
        save=full_size.save_flux_1_dev,
        save_tiny=save_tiny_flux_pipeline,
        dtypes=("bf16", "fp16"),
        steps=6,
        batch=2,
        checkpointing=True,
    ),
}


def random_model(folder: Path, *, device: str, compute_dtype: str) -> DiffusionModel:
    """Build the pipeline whose configurations are in `folder`, with the initial weights of its classes (seed 0)."""
    model = load_skeleton(str(folder), compute_dtype=compute_dtype)
    set_gpu_numerics()
    torch.manual_seed(0)
    for name in (model.family.denoiser, "vae", *model.family.text_encoders):
        part = getattr(model.pipeline, name)
        if part is None:
            continue
        dtype = next(part.parameters()).dtype
        kind = type(part)
        with _created_on(device, dtype):
            made = kind.from_config(part.config) if hasattr(kind, "from_config") else kind(part.config)
        with quiet_pipelines():
            made = made.to(dtype)  # transformers creates some modules in fp32
        model.pipeline.register_modules(**{name: made.eval().requires_grad_(False)})
    model.pipeline.set_progress_bar_config(disable=True)
    fingerprint = hashlib.sha256(f"random weights of {folder.name} in {compute_dtype}".encode()).hexdigest()
    return replace(model, device=device, fingerprint=fingerprint)


@contextmanager
def _created_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Create modules on a device in a dtype, with no copy elsewhere."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
