"""The safety checker that a Stable Diffusion pipeline brings: what it says of an image, without touching the image.

diffusers' own call blackens what it flags. A data set keeps every image as it was made, and the verdict beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ppod_data.diffusion.models.model_folder import SAFETY, ModelFolder, fingerprint, reason
from ppod_data.errors import ConfigError
from ppod_data.support.runtime import is_out_of_memory, quiet_pipelines


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


def load_safety_checker(folder: ModelFolder, device: str) -> SafetyChecker:
    """Load the safety checker of a pipeline folder.

    Raises:
        ConfigError: the pipeline has none, or one that cannot be loaded.
    """
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    refuse_without_checker(folder)
    checker, extractor = (folder.path / part for part in SAFETY)
    try:
        identity = fingerprint(folder, SAFETY)
        with quiet_pipelines():
            network = StableDiffusionSafetyChecker.from_pretrained(
                checker, variant=folder.variant_of(SAFETY[0]), use_safetensors=True, local_files_only=True
            )
            feature_extractor = CLIPImageProcessor.from_pretrained(extractor, local_files_only=True)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            f"{folder.name}: its safety checker cannot be loaded: {reason(error)}: leave out --safety-check"
        ) from error
    return SafetyChecker(
        fingerprint=identity,
        network=network.to(device).eval().requires_grad_(False),
        feature_extractor=feature_extractor,
        device=device,
    )


def refuse_without_checker(folder: ModelFolder) -> None:
    """Raise ConfigError unless the pipeline's own index names a safety checker and its feature extractor."""
    there = [folder.index.get(part) not in (None, [None, None]) for part in SAFETY]
    if not all(there) or folder.class_name(SAFETY[0]) != "StableDiffusionSafetyChecker":
        raise ConfigError(f"{folder.name} has no safety checker: leave out --safety-check")
