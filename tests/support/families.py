"""Families whose text encoder is a language model: tiny pipelines, and the layouts of their calls.

`Replayed` is an oracle of log-probabilities: a scheduler that leads a pipeline's own call along a recorded chain, and
scores each step by the formulas of Flow-GRPO (Liu et al., 2025, Eq. 9) in float64.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ppod_data.diffusion.models.model import DiffusionModel
from tests.support.transformer_pipelines import (
    save_tiny_chroma_pipeline,
    save_tiny_flux_2_dev_pipeline,
    save_tiny_klein_pipeline,
    save_tiny_lumina_2_pipeline,
    save_tiny_qwen_image_pipeline,
    save_tiny_sana_pipeline,
    save_tiny_z_image_pipeline,
)

Layout = Callable[[Any, torch.Tensor], torch.Tensor]
"""(pipeline, latents [B, C, H, W]) -> the same latents in another layout."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A family: how its tiny pipeline is made and called."""

    save: Callable[[Path], Path]
    scale: float
    """A guidance scale that the model reads."""
    given: Layout
    """The layout of the `latents` of the pipeline's call."""
    stepped: Layout
    """The layout of the latents that its scheduler steps."""
    negative: bool = True
    """Whether the family reads a negative prompt."""
    options: Callable[[int], dict[str, Any]] = lambda _: {}
    """The number of steps -> further options of the call."""
    size: tuple[int, int] = (16, 24)
    """Height and width in pixels that the call takes."""


def own_options(model: DiffusionModel, guidance_scale: float, negative_prompt: str) -> dict[str, Any]:
    """Return the options with which the pipeline's own call guides as the family does."""
    options = model.family.call_options(guidance_scale, negative_prompt)
    return {name: eval(source, {"pipe": model.pipeline}) for name, source in options.items()}


Kind = TypeVar("Kind", bound=FlowMatchEulerDiscreteScheduler)


def euler(kind: type[Kind], pipeline: Any) -> Kind:
    """Return a deterministic sampler with the schedule of a pipeline's own scheduler, which may be another solver."""
    own = pipeline.scheduler.config
    scheduler: Kind = kind.from_config(own, shift=own.get("flow_shift") or own["shift"])
    return scheduler


def _klein_given(pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
    patches: torch.Tensor = pipeline._patchify_latents(latents)
    return patches


def _klein_stepped(pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
    tokens: torch.Tensor = pipeline._pack_latents(pipeline._patchify_latents(latents))
    return tokens


def unpacked(pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
    return latents


def packed(pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
    tokens: torch.Tensor = pipeline._pack_latents(latents, *latents.shape)
    return tokens


_KLEIN = Case(
    save=save_tiny_klein_pipeline,
    scale=3.0,
    given=_klein_given,
    stepped=_klein_stepped,
)
CASES: Mapping[str, Case] = {
    "flux2-klein-base": _KLEIN,
    "flux2-klein": Case(
        **vars(_KLEIN) | {"save": partial(save_tiny_klein_pipeline, is_distilled=True), "scale": 1.0}
    ),
    "flux2-dev": Case(**vars(_KLEIN) | {"save": save_tiny_flux_2_dev_pipeline, "negative": False}),
    "chroma": Case(
        save=save_tiny_chroma_pipeline,
        scale=3.0,
        given=packed,
        stepped=packed,
    ),
    "z-image": Case(
        save=save_tiny_z_image_pipeline,
        scale=4.0,
        given=unpacked,
        stepped=unpacked,
    ),
    "sana": Case(
        save=save_tiny_sana_pipeline,
        scale=3.0,
        given=unpacked,
        stepped=unpacked,
        size=(32, 64),
        options=lambda steps: {"sigmas": np.linspace(1, 1 / steps, steps)},
    ),
    "lumina-2": Case(
        save=save_tiny_lumina_2_pipeline,
        scale=3.0,
        given=unpacked,
        stepped=unpacked,
        size=(32, 48),
    ),
    "qwen-image": Case(
        save=save_tiny_qwen_image_pipeline,
        scale=3.0,
        given=packed,
        stepped=packed,
    ),
}


class Recorded(FlowMatchEulerDiscreteScheduler):
    """The scheduler of a pipeline, which keeps the latents of its last step."""

    last: torch.Tensor

    def step(self, *arguments: Any, **options: Any) -> Any:
        """Take the scheduler's own step."""
        result = super().step(*arguments, **options)
        self.last = result[0]
        return result


class Replayed(FlowMatchEulerDiscreteScheduler):
    """A scheduler whose steps are those of a recorded chain, and which scores them."""

    chain: list[torch.Tensor]
    """x_T … x_0 in the layout of the pipeline's steps, [B, …]."""
    noise_level: float
    log_probs: list[torch.Tensor]
    """For each step the log-density of its latents, averaged over dimensions, [B]; infinite for the last."""

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **options: Any) -> Any:
        """Score the recorded step under the pipeline's own prediction, and return it."""
        index = len(self.log_probs)
        assert torch.equal(sample, self.chain[index])
        sigma, following = (float(value) for value in self.sigmas[index : index + 2])
        x, velocity, target = sample.double(), model_output.double(), self.chain[index + 1].double()
        diffusion = self.noise_level * math.sqrt(sigma / (1 - (following if sigma == 1 else sigma)))
        step = following - sigma
        drift = velocity + diffusion**2 / (2 * sigma) * (x + (1 - sigma) * velocity)
        density = torch.distributions.Normal(x + drift * step, diffusion * math.sqrt(-step))
        self.log_probs.append(density.log_prob(target).flatten(1).mean(dim=1))
        return (self.chain[index + 1],)
