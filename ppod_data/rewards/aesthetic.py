"""The reward `aesthetic`: LAION's improved aesthetic predictor (C. Schuhmann, 2022), linear layers over CLIP ViT-L/14.

Reward = MLP(unit image embedding), trained on ratings from 1 to 10; the prompt is ignored. As in the published
weights, the layers are linear with dropout between them and no activation.

Shapes: B images, D width of CLIP's embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from ppod_data.errors import ConfigError
from ppod_data.rewards.clip import MODEL_FILES, PROCESSOR_FILES, VIT_L, Clip, load_clip
from ppod_data.rewards.weights import find_files, identity, load_state

_HEAD = "trl-lib/ddpo-aesthetic-predictor"
_WIDTHS = (1024, 128, 64, 16, 1)
_INDICES = (0, 2, 4, 6, 7)  # of the linear layers in the published nn.Sequential; the others are dropout


@dataclass(frozen=True)
class AestheticReward:
    """A rating of the image, whatever the prompt."""

    name: str
    revision: str
    clip: Clip
    head: nn.Module
    """[B, D] -> [B, 1]."""

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """Return a rating from about 1 to 10 for each image; good photographs get 6 or 7."""
        with torch.inference_mode():
            values: list[float] = self.head(self.clip.embed_images(images)).squeeze(-1).tolist()
        return values


def build(device: str = "cpu", folder: str | None = None) -> AestheticReward:
    """Load the published predictor, or a CLIP model and one .pth file of the head in `folder`."""
    model = find_files("aesthetic", folder, repository=VIT_L, patterns=MODEL_FILES + PROCESSOR_FILES)
    head = find_files("aesthetic", folder, repository=_HEAD, patterns=("*.pth",))
    if len(head) > 1:
        raise ConfigError(
            f"aesthetic: {len(head)} .pth files in {head[0].parent}: keep only the predictor's there"
        )
    clip = load_clip("aesthetic", model[0].parent, model[0].parent, device)
    network = load_head(head[0], clip.model.config.projection_dim).to(device)
    return AestheticReward("aesthetic", identity("mlp(unit image embedding)", model + head), clip, network)


def load_head(path: Path, width: int) -> nn.Module:
    """Load the linear chain D -> 1024 -> 128 -> 64 -> 16 -> 1 from `path`. Raises ConfigError for other weights."""
    state = load_state("aesthetic", path)
    layers = [nn.Linear(a, b) for a, b in zip((width, *_WIDTHS), _WIDTHS, strict=False)]
    chain = nn.Sequential(*layers)
    names = {
        f"layers.{index}.{parameter}": f"{i}.{parameter}"
        for i, index in enumerate(_INDICES)
        for parameter in ("weight", "bias")
    }
    try:
        chain.load_state_dict({names[name]: tensor.float() for name, tensor in state.items()})
    except (KeyError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"aesthetic: {path} is not a predictor over embeddings of width {width}: use the .pth of {_HEAD}"
        ) from error
    return chain.eval().requires_grad_(False)
