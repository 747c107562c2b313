"""Reward models: r(x_0, c), one number for an image and its prompt. One file a reward model.

A reward model is any object with a name, a revision and `score`; nothing is inherited, and nothing is
registered beyond the names that the command line knows. docs/rewards.md describes each of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ppod_data.errors import ConfigError
from ppod_data.rewards.named import NamedReward
from ppod_data.support.precision import set_gpu_numerics

if TYPE_CHECKING:
    from PIL.Image import Image


class RewardModel(Protocol):
    """What `ppod_data.scoring.score` and the evaluation ask of a reward model."""

    @property
    def name(self) -> str:
        """Short name of the model: the folder under `scores/` unless the user gives another."""

    @property
    def revision(self) -> str:
        """Identity of weights and preprocessing: another revision never mixes with this one in a table."""

    def score(self, prompts: Sequence[str], images: Sequence[Image]) -> Sequence[float | None]:
        """One float per (prompt, RGB image) of the same index; higher is better, computed in fp32.

        Call it through `ppod_data.rewards.each.score_each`: the lists and images are then copies of the caller's. None
        declines an image. Where it raises, the images of the batch are tried one by one; an image that still fails is
        marked. `RewardUnavailableError` ends the scoring and marks nothing: it is not about these images.
        """


@runtime_checkable
class FactChecker(Protocol):
    """A reward model that also says whether an image shows all that its prompt asks for."""

    def correct(self, prompts: Sequence[str], images: Sequence[Image]) -> list[bool]:
        """True where every fact of the prompt is read in the image."""


@runtime_checkable
class PromptReader(Protocol):
    """A reward model that reads the prompt's words and knows some prompts only."""

    def check_prompt(self, prompt: str) -> None:
        """Raise ConfigError for a prompt that the model cannot read; no image is needed."""


Builder = Callable[[str, str | None], RewardModel]
"""(device, folder with the weights or None for the published ones) -> the reward model."""


def _image_reward(device: str, folder: str | None) -> RewardModel:
    from ppod_data.rewards.image_reward import build

    return build(device, folder)


def _clip(device: str, folder: str | None) -> RewardModel:
    from ppod_data.rewards.clip import build

    return build(device, folder)


def _pickscore(device: str, folder: str | None) -> RewardModel:
    from ppod_data.rewards.pickscore import build

    return build(device, folder)


def _hpsv2(device: str, folder: str | None) -> RewardModel:
    from ppod_data.rewards.hpsv2 import build

    return build(device, folder)


def _aesthetic(device: str, folder: str | None) -> RewardModel:
    from ppod_data.rewards.aesthetic import build

    return build(device, folder)


def _scenes(device: str, folder: str | None) -> RewardModel:
    from ppod_data.rewards.scenes import build

    return build(device)


def _scenes_check(device: str, folder: str | None) -> RewardModel:
    from ppod_data.rewards.scenes_check import build

    return build(device)


def _jpeg_compressibility(device: str, folder: str | None) -> RewardModel:
    from ppod_data.rewards.jpeg import COMPRESSIBILITY

    return COMPRESSIBILITY


def _jpeg_incompressibility(device: str, folder: str | None) -> RewardModel:
    from ppod_data.rewards.jpeg import INCOMPRESSIBILITY

    return INCOMPRESSIBILITY


BUILDERS: Mapping[str, Builder] = {
    "image-reward": _image_reward,
    "clip": _clip,
    "pickscore": _pickscore,
    "hpsv2": _hpsv2,
    "aesthetic": _aesthetic,
    "jpeg-compressibility": _jpeg_compressibility,
    "jpeg-incompressibility": _jpeg_incompressibility,
    "scenes": _scenes,
    "scenes-check": _scenes_check,
}

WITH_WEIGHTS = ("image-reward", "clip", "pickscore", "hpsv2", "aesthetic")
"""Rewards whose weights are downloaded, or read from the folder in NAME:FOLDER."""

_URL = re.compile(r"https?://\S+")
_FUNCTION = re.compile(r"([^\W\d]\w*(\.[^\W\d]\w*)*|.+\.py):[^\W\d]\w*")
_CLOSENESS = 0.7
"""Of a mistyped name to the one that is suggested: 'scene' and 'scenes', but not 'redness' and 'scenes'."""


def check_reward_name(reward: str) -> str:
    """`reward` itself when it can name a reward model; nothing is loaded.

    NAME, NAME:FOLDER, FILE.py:FUNCTION, MODULE:FUNCTION, or a URL of `ppod-score --serve`. Raises ConfigError for
    anything else, with the names that are known.
    """
    name, colon, folder = reward.partition(":")
    if _URL.fullmatch(reward):
        return reward
    if name in BUILDERS:
        if colon and name not in WITH_WEIGHTS:
            raise ConfigError(f"{reward}: {name} needs no weights: drop what follows its name")
        if colon and not folder:
            raise ConfigError(f"{reward}: give the folder of its weights after the colon, or drop the colon")
        return reward
    if _FUNCTION.fullmatch(reward):
        return reward
    close = get_close_matches(name, BUILDERS, n=1, cutoff=_CLOSENESS)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(
        f"unknown reward model {reward!r}: {hint}known ones are {', '.join(sorted(BUILDERS))}; "
        f"FILE.py:FUNCTION or MODULE:FUNCTION is one of yours{_function_hint(reward)}, http://HOST:PORT one that "
        "ppod-score --serve serves"
    )


def _function_hint(reward: str) -> str:
    """How to give a function of one's own whose file or name alone was given."""
    if reward.endswith(".py"):
        return f" ({reward}:FUNCTION)"
    return f" (FILE.py:{reward})" if reward.isidentifier() else ""


def load_reward(reward: str, device: str = "cpu") -> RewardModel:
    """Return the reward model `reward`, loaded on `device`; `check_reward_name` lists what can be given.

    >>> from ppod_data import load_reward
    >>> load_reward("jpeg-compressibility").name
    'jpeg-compressibility'

    Raises:
        ConfigError: an unknown name, or weights that are not there.
        RewardUnavailableError: a server that does not answer.
    """
    check_reward_name(reward)
    if device != "cpu":
        set_gpu_numerics()
    name, _, folder = reward.partition(":")
    if _URL.fullmatch(reward):
        from ppod_data.rewards.remote import connect

        return NamedReward(reward, connect(reward))
    if name in BUILDERS:
        model = BUILDERS[name](device, folder or None)
        return NamedReward(reward, model) if folder else model
    from ppod_data.rewards.function import load_function

    return NamedReward(reward, load_function(reward))
