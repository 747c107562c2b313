"""The safety checker that a Stable Diffusion pipeline brings: what it says of an image, without touching the image.

diffusers' own call blackens what it flags. A data set keeps every image as it was made, and the verdict beside it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ppod_data.errors import ConfigError
from ppod_data.quiet import quiet_pipelines

FOLDERS = ("safety_checker", "feature_extractor")
"""Of a pipeline: the network, and how images are made ready for it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SafetyChecker:
    """A loaded checker and its identity."""

    fingerprint: str
    """sha256 over its weights and configurations: 64 hex digits."""
    network: Any
    """diffusers' `StableDiffusionSafetyChecker` in fp32, whatever the pipeline computes in."""
    feature_extractor: Any
    device: str

    def flags(self, images: Sequence[Image.Image]) -> list[bool]:
        """Whether it flags each image; one at a time, so that a verdict does not depend on other images."""
        return [self._flags(image) for image in images]

    @torch.no_grad()
    def _flags(self, image: Image.Image) -> bool:
        pixels = self.feature_extractor(image, return_tensors="pt").pixel_values.to(self.device)
        with quiet_pipelines():  # it would say that it blackens the image: it blackens this stand-in
            _, flagged = self.network(clip_input=pixels, images=[np.zeros(1)])
        return bool(flagged[0])


def load_safety_checker(name: str, folder: Path, fingerprint: str, device: str) -> SafetyChecker:
    """The safety checker of the pipeline folder `folder`; `name` is what an error calls the pipeline.

    Raises:
        ConfigError: the pipeline has none, or one that cannot be loaded.
    """
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    refuse_without_checker(name, folder)
    try:
        with quiet_pipelines():
            network = StableDiffusionSafetyChecker.from_pretrained(folder / FOLDERS[0], use_safetensors=True)
            feature_extractor = CLIPImageProcessor.from_pretrained(folder / FOLDERS[1])
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name}: its safety checker cannot be loaded: {error}: leave out --safety-check"
        ) from error
    return SafetyChecker(
        fingerprint=fingerprint,
        network=network.to(device).eval().requires_grad_(False),
        feature_extractor=feature_extractor,
        device=device,
    )


def refuse_without_checker(name: str, folder: Path) -> None:
    """Raise ConfigError unless the pipeline's own index names a safety checker and its feature extractor."""
    index = json.loads((folder / "model_index.json").read_text())
    there = [index.get(part) not in (None, [None, None]) for part in FOLDERS]
    if not all(there) or index[FOLDERS[0]][1] != "StableDiffusionSafetyChecker":
        raise ConfigError(f"{name} has no safety checker: leave out --safety-check")
