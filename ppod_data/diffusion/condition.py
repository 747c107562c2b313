"""What the network is conditioned on beside latents and timesteps, as named tensors with one row an image.

Which names there are is the pipeline's business: text embeddings everywhere, pooled embeddings and image sizes for
Stable Diffusion XL, a guidance scale for FLUX.1. Sampling and training only take rows of them.

Shapes: P prompts, B rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

Condition = Mapping[str, torch.Tensor]
"""Name -> [B, …]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """The conditions of all prompts, computed once a prompt."""

    prompts: Condition
    """[P, …] in the compute dtype."""
    negative: Condition | None
    """[1, …]; None where no unconditional half is needed: at guidance scale 1, or where the scale is a condition."""

    def of(self, index: torch.Tensor | Sequence[int]) -> Condition:
        """The rows of some prompts, [B, …]."""
        return {name: value[index] for name, value in self.prompts.items()}


def stack(conditions: Sequence[Condition]) -> Condition:
    """Conditions one below the other."""
    return {name: torch.cat([condition[name] for condition in conditions]) for name in conditions[0]}


def expand(condition: Condition, count: int) -> Condition:
    """A condition of one row for `count` rows, without copies."""
    return {name: value.expand(count, *value.shape[1:]) for name, value in condition.items()}
