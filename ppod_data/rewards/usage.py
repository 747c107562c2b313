"""What a reward behind a paid service has cost so far."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ppod_data.rewards.named import NamedReward
from ppod_data.support.formatting import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ppod_data.rewards import RewardModel


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Answered requests of this process, and the tokens that the server counted."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def __str__(self) -> str:
        """Return the counts in words: "13 requests, 1,300 tokens of questions, 26 of answers"."""
        questions, answers = (
            f"{counted(self.prompt_tokens, 'token')} of questions",
            f"{self.answer_tokens:,} of answers",
        )
        return f"{counted(self.requests, 'request')}, {questions}, {answers}"

    def __add__(self, other: "Usage") -> "Usage":
        """Return the counts of both."""
        return Usage(
            requests=self.requests + other.requests,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            answer_tokens=self.answer_tokens + other.answer_tokens,
        )

    def since(self, earlier: "Usage") -> "Usage":
        """Return what was added after `earlier`."""
        return Usage(
            requests=self.requests - earlier.requests,
            prompt_tokens=self.prompt_tokens - earlier.prompt_tokens,
            answer_tokens=self.answer_tokens - earlier.answer_tokens,
        )


@runtime_checkable
class Metered(Protocol):
    """A reward model that counts its requests."""

    @property
    def usage(self) -> Usage | None:
        """Return the counts so far; None for a sum of rewards without such costs."""


def usage_of(reward: "RewardModel") -> Usage | None:
    """Return what a reward model has cost; None for a model without such costs."""
    model = reward.model if isinstance(reward, NamedReward) else reward
    return model.usage if isinstance(model, Metered) else None


def total_usage(rewards: "Iterable[RewardModel]") -> Usage | None:
    """Return what reward models have cost together; None if no model has such costs."""
    counts = [usage for reward in rewards if (usage := usage_of(reward)) is not None]
    return sum(counts, Usage()) if counts else None
