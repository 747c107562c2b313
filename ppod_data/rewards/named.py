"""A reward model beside the text that loads it again: `--reward my_rewards:redness` of the reward `redness`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from ppod_data.rewards import RewardModel


@dataclass(frozen=True)
class NamedReward:
    """A reward model whose name alone does not load it: a function, a server, weights in a folder."""

    spelling: str
    """As `load_reward` takes it."""
    model: "RewardModel"

    @property
    def name(self) -> str:
        """Short name of the model."""
        return self.model.name

    @property
    def revision(self) -> str:
        """Identity of weights and preprocessing."""
        return self.model.revision

    def score(self, prompts: Sequence[str], images: "Sequence[Image]") -> "Sequence[float | None]":
        """Return the model's scores."""
        return self.model.score(prompts, images)


def spelling_of(reward: "RewardModel") -> str:
    """Return the text that `load_reward` makes this reward model of."""
    return reward.spelling if isinstance(reward, NamedReward) else reward.name
