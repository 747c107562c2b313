"""What the network is conditioned on beside latents and timesteps, as named tensors with one row an image.

Which names there are is the pipeline's business: text embeddings everywhere, pooled embeddings and image sizes for
Stable Diffusion XL, a guidance scale for FLUX.1. Sampling and training only take rows of them.

Shapes: P prompts, B rows.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

KEPT_BYTES = 1 << 30
"""Text embeddings that are kept in host memory: 9,000 prompts of Stable Diffusion 1.5 in fp16, 400 of 3.5's."""

Condition = Mapping[str, torch.Tensor]
"""Name -> [B, …]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """The conditions of prompts by their number: embedded when first asked for, then kept in host memory.

    Embeddings of one prompt at a time do not depend on what else is embedded, so forgetting one and embedding it
    again changes no bit.
    """

    embed: Callable[[int], Condition]
    """The number of a prompt -> its condition [1, …] in the compute dtype."""
    negative: Condition | None
    """[1, …]; None where no unconditional half is needed: at guidance scale 1, or where the scale is a condition."""
    device: str
    """Where the network is."""
    max_bytes: int = KEPT_BYTES
    """Embeddings that are kept; the longest unused is forgotten first."""
    _kept: OrderedDict[int, Condition] = field(default_factory=OrderedDict, repr=False)

    def of(self, index: torch.Tensor | Sequence[int]) -> Condition:
        """Return the rows of some prompts, [B, …], on the network's device."""
        numbers = index.tolist() if isinstance(index, torch.Tensor) else list(index)
        rows = {number: row for row, number in enumerate(dict.fromkeys(numbers))}
        order = [rows[number] for number in numbers]
        distinct = stack([self._row(number) for number in rows])
        return take({name: value.to(self.device) for name, value in distinct.items()}, order)

    def _row(self, number: int) -> Condition:
        row = self._kept.pop(number, None)
        if row is None:
            home = "meta" if self.device == "meta" else "cpu"
            row = {name: value.to(home) for name, value in self.embed(number).items()}
        self._kept[number] = row
        while len(self._kept) > max(1, self.max_bytes // max(1, condition_bytes(row))):
            self._kept.popitem(last=False)
        return row


def condition_bytes(condition: Condition) -> int:
    """Return the bytes of a condition's tensors."""
    return sum(value.numel() * value.element_size() for value in condition.values())


def take(condition: Condition, rows: torch.Tensor | Sequence[int]) -> Condition:
    """Return some rows of a condition, as copies."""
    return {name: value[rows] for name, value in condition.items()}


def stack(conditions: Sequence[Condition]) -> Condition:
    """Conditions one below the other."""
    return {name: torch.cat([condition[name] for condition in conditions]) for name in conditions[0]}


def expand(condition: Condition, count: int) -> Condition:
    """Expand a condition of one row to `count` rows without copies."""
    return {name: value.expand(count, *value.shape[1:]) for name, value in condition.items()}
