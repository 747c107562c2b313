"""The pipeline classes that ppod knows, by the class name in a pipeline's own model_index.json."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ppod_data.diffusion import stable_diffusion, stable_diffusion_xl
from ppod_data.diffusion.condition import Condition


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a class of pipelines is loaded, conditioned and called."""

    load_options: Mapping[str, Any]
    """For `from_pretrained`."""
    text_encoders: tuple[str, ...]
    """Names of the components that embed prompts."""
    embed: Callable[[Any, str], Condition]
    """(pipeline, prompt) -> its condition, one row."""
    embed_negative: Callable[[Any, str], Condition]
    """The same for what guidance steers away from; "" is none."""
    predict: Callable[[Any, torch.Tensor, torch.Tensor, Condition], torch.Tensor]
    """(UNet, latents, timesteps, condition) -> its prediction."""


FAMILIES: Mapping[str, Family] = {
    "StableDiffusionPipeline": Family(
        load_options={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
        text_encoders=("text_encoder",),
        embed=stable_diffusion.embed,
        embed_negative=stable_diffusion.embed_negative,
        predict=stable_diffusion.predict,
    ),
    "StableDiffusionXLPipeline": Family(
        load_options={"add_watermarker": False},
        text_encoders=("text_encoder", "text_encoder_2"),
        embed=stable_diffusion_xl.embed,
        embed_negative=stable_diffusion_xl.embed_negative,
        predict=stable_diffusion_xl.predict,
    ),
}
