"""A reward model with the text that loads it: `--reward my_rewards:redness` for the reward `redness`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from ppod_data.rewards import RewardModel
    from ppod_data.rewards.numbers import NoScore


@dataclass(frozen=True)
class NamedReward:
    """A reward model that its name alone cannot load: a function, a server, or weights in a folder."""

    spelling: str
    """The argument of `load_reward`."""
    model: "RewardModel"

    @property
    def name(self) -> str:
        """Return the model's short name."""
        return self.model.name

    @property
    def revision(self) -> str:
        """Return the identity of weights and preprocessing."""
        return self.model.revision

    def score(self, prompts: Sequence[str], images: "Sequence[Image]") -> "Sequence[float | NoScore | None]":
        """Return the model's scores."""
        return self.model.score(prompts, images)


def spelling_of(reward: "RewardModel") -> str:
    """Return the argument with which `load_reward` loads this reward model."""
    return reward.spelling if isinstance(reward, NamedReward) else reward.name
