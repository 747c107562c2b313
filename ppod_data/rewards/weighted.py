"""A weighted sum of reward models, as ranked by `ppod-pair rank --reward A=0.7 --reward B=0.3`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ppod_data.rewards import PromptReader, RewardModel
from ppod_data.rewards.each import numbers_of
from ppod_data.rewards.numbers import NoScore
from ppod_data.rewards.usage import Usage, total_usage
from ppod_data.support.canonical_json import canonical_json

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class WeightedReward:
    """The weighted sum of several reward models' scores."""

    name: str
    parts: tuple[tuple[float, RewardModel], ...]

    @cached_property
    def revision(self) -> str:
        """Return 16 hex digits over weights, names and revisions."""
        identity = [[weight, model.name, model.revision] for weight, model in self.parts]
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]

    @property
    def usage(self) -> Usage | None:
        """Return requests and tokens of all models so far; None if no model counts them."""
        return total_usage(model for _, model in self.parts)

    def score(self, prompts: Sequence[str], images: "Sequence[Image]") -> list[float | NoScore | None]:
        """Return the weighted sum for each image, or None or the reason if a model declines the image."""
        columns = [numbers_of(model, prompts, images) for _, model in self.parts]
        return [self._sum(values) for values in zip(*columns, strict=True)]

    def _sum(self, values: Sequence[float | NoScore | None]) -> float | NoScore | None:
        total = 0.0
        for (weight, _), value in zip(self.parts, values, strict=True):
            if value is None or isinstance(value, NoScore):
                return value
            total += weight * value
        return total

    def check_prompt(self, prompt: str) -> None:
        """Raise ConfigError for a prompt that one of the models cannot read."""
        for _, model in self.parts:
            if isinstance(model, PromptReader):
                model.check_prompt(prompt)
