"""The reward `clip`: CLIP's similarity of image and prompt (Radford et al., 2021); and CLIP for other rewards.

Reward = exp(logit_scale) × cos(image, prompt), the `logits_per_image` of `CLIPModel`. The scale of the
published models is 100.

Shapes: B images or prompts, D width of the embedding, L tokens, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ppod_data.errors import ConfigError
from ppod_data.rewards.weights import find_files, identity
from ppod_data.support.runtime import quiet_transformers

VIT_L = "openai/clip-vit-large-patch14"
MODEL_FILES = ("config.json", "model*.safetensors")
PROCESSOR_FILES = ("preprocessor_config.json", "tokenizer*.json")
"""Files of the preprocessing. The tokenizer's older files are redundant."""


@dataclass(frozen=True)
class Clip:
    """A CLIP model in fp32 with its preprocessing."""

    model: Any
    """transformers' CLIPModel, on its device."""
    tokenizer: Any
    pixels: Callable[[Sequence[Image.Image]], torch.Tensor]
    """Converts RGB images to [B, 3, H, W], normalised."""

    @property
    def scale(self) -> float:
        """Return exp(logit_scale)."""
        return float(self.model.logit_scale.exp())

    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Return unit vectors [B, D]."""
        with torch.inference_mode():
            pixels = self.pixels(images).to(self.model.device)
            hidden = self.model.vision_model(pixel_values=pixels).pooler_output
            return _unit(self.model.visual_projection(hidden))

    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return unit vectors [B, D]. Repeated prompts are computed once.

        Long prompts are truncated. All are padded to the model's length, so that no result depends on other
        prompts.
        """
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        length = self.model.config.text_config.max_position_embeddings
        with torch.inference_mode():
            tokens = self.tokenizer(
                list(rows), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            ).to(self.model.device)
            hidden = self.model.text_model(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
            return _unit(self.model.text_projection(hidden))[[rows[prompt] for prompt in prompts]]

    def cosines(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> torch.Tensor:
        """Return cos(image, prompt) [B] for each pair."""
        with torch.inference_mode():
            return (self.embed_images(images) * self.embed_prompts(prompts)).sum(-1)


def _unit(embedding: torch.Tensor) -> torch.Tensor:
    unit: torch.Tensor = embedding / embedding.norm(dim=-1, keepdim=True)
    return unit


@dataclass(frozen=True)
class ClipReward:
    """exp(logit_scale) × cos(image, prompt)."""

    name: str
    revision: str
    clip: Clip

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """Return one value an image, at most exp(logit_scale)."""
        values: list[float] = (self.clip.scale * self.clip.cosines(prompts, images)).tolist()
        return values


def build(device: str = "cpu", folder: str | None = None) -> ClipReward:
    """Load CLIP ViT-L/14, or the CLIP model that `save_pretrained` of transformers wrote to `folder`."""
    files = find_files("clip", folder, repository=VIT_L, patterns=MODEL_FILES + PROCESSOR_FILES)
    clip = load_clip("clip", files[0].parent, files[0].parent, device)
    return ClipReward("clip", identity("exp(logit_scale) * cos", files), clip)


def load_clip(reward: str, model_folder: Path, processor_folder: Path, device: str) -> Clip:
    """Load model and preprocessing from folders in transformers' layout. Raises ConfigError for another model."""
    from transformers import CLIPModel

    with quiet_transformers():
        try:
            model = CLIPModel.from_pretrained(
                model_folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{reward}: no CLIP model in {model_folder} ({error}): get its files again"
            ) from error
    model = model.eval().requires_grad_(False).to(device)
    return Clip(model, load_tokenizer(reward, processor_folder), load_pixels(processor_folder))


def load_tokenizer(reward: str, folder: Path) -> Any:
    """Load CLIP's tokenizer from `folder`."""
    from transformers import CLIPTokenizerFast

    with quiet_transformers():
        try:
            return CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{reward}: no tokenizer in {folder} ({error}): get its files again") from error


def load_pixels(folder: Path) -> Callable[[Sequence[Image.Image]], torch.Tensor]:
    """Return the image preprocessing that `folder`/preprocessor_config.json describes, computed by Pillow.

    Pillow resizes as the models' authors did. Torchvision, the default of newer transformers, rounds
    differently.
    """
    try:
        from transformers import CLIPImageProcessorPil as Processor
    except ImportError:  # the CLIPImageProcessor of transformers 4 uses Pillow
        from transformers import CLIPImageProcessor as Processor
    processor = Processor.from_pretrained(folder, local_files_only=True)

    def pixels(images: Sequence[Image.Image]) -> torch.Tensor:
        values: torch.Tensor = processor(images=list(images), return_tensors="pt")["pixel_values"]
        return values.float()

    return pixels
