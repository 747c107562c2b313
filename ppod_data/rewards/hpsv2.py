"""The reward `hpsv2`: Human Preference Score v2.1 (Wu et al., 2023), a CLIP ViT-H/14 trained on people's rankings.

Reward = cos(image, prompt), without the logit scale, as in the authors' package: about 0.2 to 0.35. The package
computes in half precision, this module in fp32.

The checkpoint is in open_clip's layout. `to_transformers` renames and splits its tensors, so that no other CLIP
implementation is needed. Images are prepared as in the package: resized by their longer side and padded with
black.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ppod_data.errors import ConfigError
from ppod_data.rewards.clip import PROCESSOR_FILES, Clip, load_tokenizer
from ppod_data.rewards.pickscore import PROCESSOR
from ppod_data.rewards.weights import find_files, identity, load_state

_MODEL = "xswu/HPSv2"
_CHECKPOINT = "HPS_v2.1_compressed.pt"
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_NAMES = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "ln_final": "text_model.final_layer_norm",
    "visual.ln_pre": "vision_model.pre_layrnorm",  # so spelt in transformers
    "visual.ln_post": "vision_model.post_layernorm",
}
_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


@dataclass(frozen=True)
class HpsReward:
    """cos(image, prompt)."""

    name: str
    revision: str
    clip: Clip

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """Return one value an image, at most 1."""
        values: list[float] = self.clip.cosines(prompts, images).tolist()
        return values


def build(device: str = "cpu", folder: str | None = None) -> HpsReward:
    """Load version 2.1, or the single HPS*.pt in `folder`.

    `folder` must also hold the configuration and tokenizer of `PROCESSOR`.
    """
    pattern = _CHECKPOINT if folder is None else "HPS*.pt"
    weights = find_files("hpsv2", folder, repository=_MODEL, patterns=(pattern,))
    if len(weights) > 1:
        raise ConfigError(
            f"hpsv2: {len(weights)} HPS*.pt files in {weights[0].parent}: keep only one version there"
        )
    processor = find_files("hpsv2", folder, repository=PROCESSOR, patterns=("config.json", *PROCESSOR_FILES))
    clip = _load(weights[0], processor[0].parent, device)
    return HpsReward("hpsv2", identity("cos, longer side resized, padded", weights + processor), clip)


def _load(weights: Path, processor: Path, device: str) -> Clip:
    from transformers import CLIPConfig, CLIPModel

    model = CLIPModel(CLIPConfig.from_pretrained(processor, local_files_only=True))
    state = load_state("hpsv2", weights)
    try:
        model.load_state_dict(to_transformers(state.get("state_dict", state)))
    except (KeyError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"hpsv2: {weights} does not fit config.json beside it: use {_CHECKPOINT} of {_MODEL} and the rest of "
            f"{PROCESSOR}"
        ) from error
    model = model.float().eval().requires_grad_(False).to(device)
    return Clip(
        model, load_tokenizer("hpsv2", processor), padded_square(model.config.vision_config.image_size)
    )


def to_transformers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert the state of open_clip's CLIP to the names of transformers' CLIPModel.

    Projections are transposed, and the joint matrix of queries, keys and values is split in three. Raises
    KeyError for a name that open_clip's CLIP does not have.
    """
    converted: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if layer := _LAYER.fullmatch(name):
            side = "vision_model" if layer[1] else "text_model"
            prefix, part, parameter = f"{side}.encoder.layers.{layer[2]}", layer[3], layer[4]
            if part == "attn.in_proj":
                for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                    converted[f"{prefix}.self_attn.{letter}_proj.{parameter}"] = piece
            else:
                converted[f"{prefix}.{_PARTS[part]}.{parameter}"] = tensor
        elif name in ("visual.proj", "text_projection"):
            converted[_NAMES[name]] = tensor.T
        elif name != "attn_mask":  # a buffer that older versions of open_clip stored
            norm, _, parameter = name.rpartition(".")
            converted[f"{_NORMS[norm]}.{parameter}" if norm in _NORMS else _NAMES[name]] = tensor
    return converted


def padded_square(side: int) -> Callable[[Sequence[Image.Image]], torch.Tensor]:
    """Return a function from RGB images to [B, 3, side, side], normalised.

    The longer side is resized (bicubic, antialiased), and the rest padded with black.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import normalize, pad, resize

    def convert(image: Image.Image) -> Any:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
        scale = side / max(pixels.shape[1:])
        height, width = (round(size * scale) for size in pixels.shape[1:])
        pixels = resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True)
        left, top = (side - width) // 2, (side - height) // 2
        pixels = pad(pixels, [left, top, side - width - left, side - height - top])
        return normalize(pixels, _MEAN, _STD)

    def pixels(images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.stack([convert(image) for image in images])

    return pixels
