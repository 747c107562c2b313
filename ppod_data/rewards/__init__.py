"""Reward models: r(x_0, c), one number for an image and its prompt. One file a reward model.

    reward = load_reward("clip", device="cuda")
    reward.score(["a cat"], [image])

A reward model is any object with a name, a revision and `score`. There is no base class, and no registry beyond
the names of the command line. docs/rewards.md describes each of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ppod_data.errors import ConfigError
from ppod_data.rewards.named import NamedReward
from ppod_data.rewards.numbers import NoScore
from ppod_data.rewards.servers.addresses import has_protocol, is_file, parse_address
from ppod_data.support.precision import set_gpu_numerics

if TYPE_CHECKING:
    from PIL.Image import Image


class RewardModel(Protocol):
    """The interface that scoring and evaluation require of a reward model."""

    @property
    def name(self) -> str:
        """Return the model's short name: the folder under `scores/` unless the user gives another."""

    @property
    def revision(self) -> str:
        """Return the identity of weights and preprocessing. A score table never mixes two revisions."""

    def score(self, prompts: Sequence[str], images: Sequence[Image]) -> Sequence[float | NoScore | None]:
        """Return one float for each (prompt, RGB image); higher is better, computed in fp32.

        None declines an image; `NoScore` also has the reason.

        Call it through `ppod_data.rewards.each.score_each`, which passes copies of the lists and images. If a
        batch raises, its images are retried one by one, and an image that fails again is marked.
        `RewardUnavailableError` stops scoring and marks nothing, because it does not concern these images.
        """


@runtime_checkable
class FactChecker(Protocol):
    """A reward model that also tells whether an image shows everything that its prompt asks for."""

    def correct(self, prompts: Sequence[str], images: Sequence[Image]) -> list[bool]:
        """Return true for each image that shows every fact of its prompt."""


@runtime_checkable
class PromptReader(Protocol):
    """A reward model that parses the prompt and supports only some prompts."""

    def check_prompt(self, prompt: str) -> None:
        """Raise ConfigError for a prompt that the model cannot parse. No image is needed."""


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


def _ocr(device: str, folder: str | None) -> RewardModel:
    from ppod_data.rewards.ocr import build

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
    "ocr": _ocr,
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
"""The least similarity of a suggested name: 'scene' suggests 'scenes', but 'redness' does not."""


def check_reward_name(reward: str) -> str:
    """Return `reward` if it can name a reward model, without loading it.

    Valid names are NAME, NAME:FOLDER, FILE.py:FUNCTION, MODULE:FUNCTION, the URL of `ppod-score --serve`,
    openai:URL#MODEL, openai:FILE.toml, flow-factory:URL#NAME, and unirl:URL#REWARD.
    Raises ConfigError for any other text, listing the known names.
    """
    name, colon, folder = reward.partition(":")
    if colon and has_protocol(reward):
        if not is_file(reward):
            parse_address(reward)
        return reward
    if _URL.fullmatch(reward):
        return reward
    if name in BUILDERS:
        if colon and name not in WITH_WEIGHTS:
            raise ConfigError(f"{reward}: {name} has no weights: drop the part after its name")
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
        "ppod-score --serve serves, openai:URL#MODEL a judge"
    )


def _connect(protocol: str, reward: str) -> RewardModel:
    """Connect to a server of another project."""
    if protocol == "openai":
        from ppod_data.rewards.vlm.reward import build

        return build(reward)
    if protocol == "unirl":
        from ppod_data.rewards.servers.unirl import connect_unirl

        return connect_unirl(parse_address(reward))
    from ppod_data.rewards.servers.flow_factory import connect_flow_factory

    return connect_flow_factory(parse_address(reward))


def _function_hint(reward: str) -> str:
    """Return how to write a function of the user if only its file or name was given."""
    if reward.endswith(".py"):
        return f" ({reward}:FUNCTION)"
    return f" (FILE.py:{reward})" if reward.isidentifier() else ""


def load_reward(reward: str, device: str = "cpu") -> RewardModel:
    """Load the reward model `reward` on `device`; see `check_reward_name` for valid names.

    >>> from ppod_data import load_reward
    >>> load_reward("jpeg-compressibility").name
    'jpeg-compressibility'

    Raises:
        ConfigError: an unknown name, or missing weights.
        RewardUnavailableError: a server that does not respond.
    """
    check_reward_name(reward)
    if device != "cpu":
        set_gpu_numerics()
    name, _, folder = reward.partition(":")
    if has_protocol(reward):
        return NamedReward(reward, _connect(name, reward))
    if _URL.fullmatch(reward):
        from ppod_data.rewards.servers.remote import connect

        return NamedReward(reward, connect(reward))
    if name in BUILDERS:
        model = BUILDERS[name](device, folder or None)
        return NamedReward(reward, model) if folder else model
    from ppod_data.rewards.function import load_function

    return NamedReward(reward, load_function(reward))
