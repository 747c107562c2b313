"""A reward of the user's own: MODULE:FUNCTION, called with (prompts, images), returns one float an image."""

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from ppod_data.errors import ConfigError
from ppod_data.files import sha256_file

ScoreFunction = Callable[[list[str], list[Image]], Sequence[float]]


@dataclass(frozen=True)
class FunctionReward:
    """The reward model that a function is."""

    name: str
    """The function's name."""
    revision: str
    """16 hex digits of its source file's sha256: an edited file is another reward."""
    function: ScoreFunction

    def score(self, prompts: Sequence[str], images: Sequence[Image]) -> list[float]:
        """What the function returns, as floats."""
        return [float(value) for value in self.function(list(prompts), list(images))]


def load_function(reward: str) -> FunctionReward:
    """The reward MODULE:FUNCTION; modules of the current folder are found, as with `python -m`.

    Raises:
        ConfigError: a module that cannot be imported, no such function in it, or one whose source is not a file.
    """
    module_name, _, name = reward.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # for good: the module may import its neighbours later
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"{reward}: cannot import {module_name} ({type(error).__name__}: {error}): run the command in the folder "
            "of its file, or install it"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{reward}: {module_name} has no function {name}")
    source = inspect.getsourcefile(module)
    if source is None or not Path(source).is_file():
        raise ConfigError(f"{reward}: {module_name} has no source file, which its revision is made of")
    return FunctionReward(name, sha256_file(Path(source))[:16], function)
