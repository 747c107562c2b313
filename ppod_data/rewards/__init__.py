"""Reward models: r(x_0, c), one number for an image and its prompt. One file a reward model.

A reward model is any object with a name, a revision and `score`; nothing is inherited, and nothing is
registered beyond the names that the command line knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ppod_data.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image


class RewardModel(Protocol):
    """What `ppod_data.score` and the evaluation ask of a reward model."""

    @property
    def name(self) -> str:
        """Short name of the model: the folder under `scores/` unless the user gives another."""

    @property
    def revision(self) -> str:
        """Identity of weights and preprocessing: another revision never mixes with this one in a table."""

    def score(self, prompts: Sequence[str], images: Sequence[Image]) -> list[float]:
        """One float per (prompt, RGB image) of the same index; higher is better, computed in fp32.

        Raises an exception when an image or a prompt cannot be scored; `ppod_data.score` then tries the batch
        one by one and marks the rows that fail.
        """


@runtime_checkable
class FactChecker(Protocol):
    """A reward model that also says whether an image shows all that its prompt asks for."""

    def correct(self, prompts: Sequence[str], images: Sequence[Image]) -> list[bool]:
        """True where every fact of the prompt is read in the image."""


def _scenes(device: str) -> RewardModel:
    from ppod_data.rewards.scenes import build

    return build(device)


def _scenes_check(device: str) -> RewardModel:
    from ppod_data.rewards.scenes_check import build

    return build(device)


BUILDERS: Mapping[str, Callable[[str], RewardModel]] = {"scenes": _scenes, "scenes-check": _scenes_check}


def check_reward_name(name: str) -> str:
    """`name` itself when a reward model is known under it; ConfigError with the known names otherwise."""
    if name in BUILDERS:
        return name
    close = get_close_matches(name, BUILDERS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(f"unknown reward model {name!r}: {hint}known ones are {', '.join(sorted(BUILDERS))}")


def load_reward(name: str, device: str = "cpu") -> RewardModel:
    """The reward model `name`, ready on `device`. Raises ConfigError for an unknown name."""
    return BUILDERS[check_reward_name(name)](device)
