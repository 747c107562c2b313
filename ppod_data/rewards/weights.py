"""The files of a published reward model, in a folder of the user or on the Hugging Face Hub.

A reward's revision is the hash of these files and of its formula, so that the same weights have the same
revision wherever they are stored.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ppod_data.errors import ConfigError
from ppod_data.storage.files import sha256_file


def find_files(reward: str, folder: str | None, *, repository: str, patterns: Sequence[str]) -> list[Path]:
    """Return the files of `folder` that match a pattern, sorted; of the Hub's `repository` if `folder` is None.

    Files of the Hub are downloaded unless cached; HF_HUB_OFFLINE=1 forbids downloads.

    Raises:
        ConfigError: the folder does not exist, the Hub cannot be reached, or no file matches a pattern.
    """
    root = _from_hub(reward, repository, patterns) if folder is None else Path(folder).expanduser()
    if not root.is_dir():
        raise ConfigError(f"{reward}: {root} is not a folder: give the one that holds its weights")
    missing = [pattern for pattern in patterns if not any(_matching(root, pattern))]
    if missing:
        raise ConfigError(
            f"{reward}: no {' nor '.join(missing)} in {root}: put the files of {repository} there"
        )
    return sorted({path for pattern in patterns for path in _matching(root, pattern)})


def has_files(folder: str | None, pattern: str) -> bool:
    """Return true if the user's folder has a matching file."""
    return folder is not None and any(_matching(Path(folder).expanduser(), pattern))


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the matching files that are not hidden: macOS writes ._NAME beside NAME on disks of other systems."""
    return (path for path in folder.glob(pattern) if not path.name.startswith("."))


def _from_hub(reward: str, repository: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:  # not cached while offline, unknown, gated, or no network
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        raise ConfigError(
            f"{reward}: its weights are not on this machine and {repository} cannot be fetched ({reason}): "
            f"run `hf download {repository}` on a machine with a network, or give a folder, {reward}:FOLDER"
        ) from error


def identity(formula: str, files: Sequence[Path]) -> str:
    """Return 16 hex digits of the formula, and of the names and contents of the files.

    Reading the files takes a second or two for each GB.
    """
    lines = [formula, *sorted(f"{path.name} {sha256_file(path)}" for path in files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def load_state(reward: str, path: Path) -> dict[str, Any]:
    """Load the tensors of a .pt or .pth file to the CPU without executing its content.

    Raises:
        ConfigError: the file holds more than tensors and plain containers, or is damaged.
    """
    import torch

    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for files that hold no weights
        raise ConfigError(
            f"{reward}: {path} is not a file of weights: get it again from its source"
        ) from error
    return state
