"""What a reward behind a paid service has cost so far."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ppod_data.rewards.named import NamedReward

if TYPE_CHECKING:
    from ppod_data.rewards import RewardModel


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Answered requests of this process, and the tokens that the server counted."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


@runtime_checkable
class Metered(Protocol):
    """A reward model that counts its requests."""

    @property
    def usage(self) -> Usage:
        """Return the counts so far."""


def usage_of(reward: "RewardModel") -> Usage | None:
    """Return what a reward model has cost; None for a model without such costs."""
    model = reward.model if isinstance(reward, NamedReward) else reward
    return model.usage if isinstance(model, Metered) else None
