"""The reward `image-reward`: ImageReward v1.0 (Xu et al., 2023), with the network of the package `image-reward`.

The package was written for transformers 4.27. `_imported` and `_built` adapt it to newer versions. Their
changes to other packages last for one import or one construction and are undone; permanent changes are made on
the package's own classes only. The scores equal the package's own with transformers 4.30 and no adapter.

Shapes: B images, L = 35 tokens.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image

from ppod_data.errors import ConfigError
from ppod_data.rewards.weights import find_files, has_files, identity, load_state
from ppod_data.support.runtime import quiet_transformers

_REPOSITORY = "THUDM/ImageReward"
_FILES = ("ImageReward.pt", "med_config.json")
_TOKENIZER = "bert-base-uncased"
_MAX_TOKENS = 35  # of the package's own score()


@dataclass(frozen=True)
class ImageRewardScorer:
    """A human preference as a number, standardised over the authors' data: about -2 to 2."""

    name: str
    revision: str
    model: Any
    """The package's ImageReward module, on its device."""

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """Return one value an image: the package's `score`, computed for the whole batch."""
        with torch.inference_mode():
            tokens = self.model.blip.tokenizer(
                list(prompts),
                padding="max_length",
                truncation=True,
                max_length=_MAX_TOKENS,
                return_tensors="pt",
            ).to(self.model.device)
            pixels = torch.stack([self.model.preprocess(image) for image in images]).to(self.model.device)
            rewards = self.model.score_gard(tokens.input_ids, tokens.attention_mask, pixels)
        values: list[float] = rewards.squeeze(-1).tolist()
        return values


def build(device: str = "cpu", folder: str | None = None) -> ImageRewardScorer:
    """Load the published model, or the one in `folder`, with BERT's tokenizer from `folder` if it is there."""
    files = find_files("image-reward", folder, repository=_REPOSITORY, patterns=_FILES)
    weights, config = files
    file = "tokenizer.json" if has_files(folder, "tokenizer.json") else "vocab.txt"
    tokenizer_folder = folder if has_files(folder, file) else None
    tokenizer = find_files("image-reward", tokenizer_folder, repository=_TOKENIZER, patterns=(file,))
    model = _built(config, tokenizer[0].parent, device)
    missing = model.load_state_dict(load_state("image-reward", weights), strict=False).missing_keys
    lost = sorted(set(missing) & {name for name, _ in model.named_parameters()})
    if lost:
        raise ConfigError(
            f"image-reward: {weights} lacks {len(lost)} of the network's tensors, such as {lost[0]}: get it again from "
            f"{_REPOSITORY}"
        )
    version = importlib.metadata.version("image-reward")
    revision = identity(f"image-reward {version}", [*files, *tokenizer])
    return ImageRewardScorer("image-reward", revision, model.eval().requires_grad_(False).to(device))


def _built(med_config: Path, tokenizer: Path, device: str) -> Any:
    """Return the package's network with random weights.

    `init_tokenizer` is replaced during construction: it downloads, and reads an attribute that tokenizers no
    longer have.
    """
    blip = _imported("ImageReward.models.BLIP.blip_pretrain")
    module = _imported("ImageReward.ImageReward")
    with quiet_transformers(), patch.object(blip, "init_tokenizer", lambda: _tokenizer(tokenizer)):
        return module.ImageReward(med_config=str(med_config), device=device)


def _tokenizer(folder: Path) -> Any:
    """Return BERT's tokenizer with the two tokens that BLIP adds, as the package's init_tokenizer does."""
    from transformers import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return tokenizer


def _imported(name: str) -> Any:
    """Return a module of the package, which the first call imports and completes."""
    if name not in sys.modules:
        with _as_the_package_expects():
            _complete(importlib.import_module("ImageReward.models.BLIP.med"))
    return importlib.import_module(name)


@contextmanager
def _as_the_package_expects() -> Iterator[None]:
    """Prepare other packages for `import ImageReward`, and undo its changes to them."""
    import transformers.modeling_utils
    import transformers.pytorch_utils

    with ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())  # the package silences all warnings of the process
        undo.enter_context(quiet_transformers())  # and transformers' messages
        if importlib.util.find_spec("clip") is None:
            # Its scores CLIP and Aesthetic import clip. They are unused here, and clip is not among its requirements.
            sys.modules["clip"] = types.ModuleType("clip")
            undo.callback(sys.modules.pop, "clip")
        for function in (
            "apply_chunking_to_forward",
            "find_pruneable_heads_and_indices",
            "prune_linear_layer",
        ):
            # The first moved to pytorch_utils; the others prune heads, which ImageReward never does.
            if not hasattr(transformers.modeling_utils, function):
                moved = getattr(transformers.pytorch_utils, function, None)
                undo.enter_context(patch.object(transformers.modeling_utils, function, moved, create=True))
        yield


def _complete(med: Any) -> None:
    """Add attributes to the package's BERT that transformers' base class no longer has. Other classes are unchanged."""
    model = med.BertPreTrainedModel
    if not hasattr(model, "get_head_mask"):
        model.get_head_mask = _no_head_mask
    if not hasattr(model, "invert_attention_mask"):
        model.invert_attention_mask = _inverted
    if not hasattr(model, "all_tied_weights_keys"):
        model.all_tied_weights_keys = {}  # read by init_weights; this BERT ties none


def _no_head_mask(self: Any, head_mask: None, num_layers: int) -> list[None]:
    assert head_mask is None, "ImageReward masks no heads"
    return [None] * num_layers


def _inverted(self: Any, mask: torch.Tensor) -> torch.Tensor:
    """Convert a mask [B, L] of ones and zeros to the term [B, 1, 1, L] that is added to attention scores."""
    lowest = torch.finfo(self.dtype).min
    return (1.0 - mask[:, None, None, :].to(self.dtype)) * lowest
