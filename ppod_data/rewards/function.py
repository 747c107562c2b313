"""A user's own reward: FILE.py:FUNCTION or MODULE:FUNCTION, called with (prompts, images)."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL.Image import Image

from ppod_data.errors import ConfigError
from ppod_data.rewards.numbers import NoScore, as_numbers
from ppod_data.storage.files import sha256_file

ScoreFunction = Callable[[list[str], list[Image]], Any]


@dataclass(frozen=True)
class FunctionReward:
    """A reward model that calls a function."""

    name: str
    """The function's name."""
    revision: str
    """16 hex digits of its source file's sha256: an edited file is another reward."""
    function: ScoreFunction

    def score(self, prompts: Sequence[str], images: Sequence[Image]) -> list[float | NoScore | None]:
        """Call the function and read its result. Raises RewardError unless it is one number an image."""
        return as_numbers(self.name, self.function(list(prompts), list(images)), len(images))


def load_function(reward: str) -> FunctionReward:
    """Load the reward FILE.py:FUNCTION or MODULE:FUNCTION.

    Modules of the current folder are found, as with `python -m`.

    Raises:
        ConfigError: the file or module cannot be imported, lacks the function, or has no source file.
    """
    module_name, _, name = reward.rpartition(":")
    module = (
        _import_file(reward, module_name) if module_name.endswith(".py") else _import(reward, module_name)
    )
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{reward}: {module_name} has no function {name}{_own_functions(module)}")
    source = inspect.getsourcefile(module)
    if source is None or not Path(source).is_file():
        raise ConfigError(
            f"{reward}: {module_name} has no source file, from which its revision is computed: give FILE.py:{name}"
        )
    return FunctionReward(name, sha256_file(Path(source))[:16], function)


def _import(reward: str, module_name: str) -> ModuleType:
    _find_modules_in(Path.cwd())
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"{reward}: cannot import {module_name} ({type(error).__name__}: {error}): give the path of its file, "
            f"FILE.py:{reward.rpartition(':')[2]}, or install the module"
        ) from error


def _import_file(reward: str, file: str) -> ModuleType:
    """Import a file under its own name, so that MODULE:FUNCTION gives the same module."""
    path = Path(file).resolve()
    if not path.is_file():
        raise ConfigError(f"{reward}: there is no file {file} in {Path.cwd()}: give its path")
    _find_modules_in(path.parent)
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    name = path.stem if loaded is None else f"_ppod_reward_{sha256_file(path)[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look modules up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(
            f"{reward}: cannot import {file} ({type(error).__name__}: {error}): correct the file, or install what "
            "it imports"
        ) from error
    return module


def _find_modules_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # permanently: the module may import its neighbours later


def _own_functions(module: ModuleType) -> str:
    """List the functions that a module defines, for an error: ": it has redness and blueness"."""
    names = [
        name for name, item in vars(module).items() if getattr(item, "__module__", "") == module.__name__
    ]
    names = [name for name in names if inspect.isfunction(getattr(module, name)) and not name.startswith("_")]
    return f": it has {', '.join(names[:8])}" if names else ": define it there"
