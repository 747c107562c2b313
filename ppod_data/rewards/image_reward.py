"""The reward `image-reward`: ImageReward v1.0 (Xu et al., 2023), by the network of the package `image-reward`.

The package was written for transformers 4.27. `_imported` and `_built` are all that newer versions need. What they
change in other packages lasts for one import or one construction and is undone; what has to stay is set on the
package's own classes. The scores are the package's own: it gives the same ones with transformers 4.30 and no adapter.

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
    """A person's preference as a number, standardised over the authors' data: about -2 to 2."""

    name: str
    revision: str
    model: Any
    """The package's ImageReward module, on its device."""

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """One value an image: of the package's `score`, computed for the batch at once."""
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
    """The published model, or the one in `folder`; BERT's tokenizer from there too where it is in the folder."""
    files = find_files("image-reward", folder, repository=_REPOSITORY, patterns=_FILES)
    weights, config = files
    vocabulary = "tokenizer.json" if has_files(folder, "tokenizer.json") else "vocab.txt"
    own = folder if has_files(folder, vocabulary) else None
    tokenizer = find_files("image-reward", own, repository=_TOKENIZER, patterns=(vocabulary,))
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
    """The package's network with random weights.

    `init_tokenizer` is replaced while it is built: it downloads, and reads an attribute that tokenizers no longer have.
    """
    blip = _imported("ImageReward.models.BLIP.blip_pretrain")
    module = _imported("ImageReward.ImageReward")
    with quiet_transformers(), patch.object(blip, "init_tokenizer", lambda: _tokenizer(tokenizer)):
        return module.ImageReward(med_config=str(med_config), device=device)


def _tokenizer(folder: Path) -> Any:
    """As the package's init_tokenizer: BERT's, with the two tokens that BLIP adds."""
    from transformers import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return tokenizer


def _imported(name: str) -> Any:
    """A module of the package, which the first call imports and completes."""
    if name not in sys.modules:
        with _as_the_package_expects():
            _complete(importlib.import_module("ImageReward.models.BLIP.med"))
    return importlib.import_module(name)


@contextmanager
def _as_the_package_expects() -> Iterator[None]:
    """What `import ImageReward` needs around it, and undoing what it does to others."""
    import transformers.modeling_utils
    import transformers.pytorch_utils

    with ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())  # the package silences all warnings, of everybody
        undo.enter_context(quiet_transformers())  # and transformers' messages
        if importlib.util.find_spec("clip") is None:
            # Imported by its scores CLIP and Aesthetic, which nothing here uses, and not among its requirements.
            sys.modules["clip"] = types.ModuleType("clip")
            undo.callback(sys.modules.pop, "clip")
        for function in (
            "apply_chunking_to_forward",
            "find_pruneable_heads_and_indices",
            "prune_linear_layer",
        ):
            # The first moved to pytorch_utils; the others are for pruning heads, which ImageReward never does.
            if not hasattr(transformers.modeling_utils, function):
                moved = getattr(transformers.pytorch_utils, function, None)
                undo.enter_context(patch.object(transformers.modeling_utils, function, moved, create=True))
        yield


def _complete(med: Any) -> None:
    """Give the package's BERT what its base class in transformers no longer has; no other class sees it."""
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
    """From 1 for what is attended to and 0 for what is not [B, L], to what is added to the scores [B, 1, 1, L]."""
    lowest = torch.finfo(self.dtype).min
    return (1.0 - mask[:, None, None, :].to(self.dtype)) * lowest
