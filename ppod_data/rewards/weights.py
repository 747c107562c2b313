"""The files of a published reward model: in a folder of the user's, or on the Hugging Face Hub.

A reward's revision is the hash of these files and of its formula, so that the same weights have the same revision
wherever they came from.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppod_data.errors import ConfigError
from ppod_data.storage.files import sha256_file


def find_files(reward: str, folder: str | None, *, repository: str, patterns: Sequence[str]) -> list[Path]:
    """Every file of `folder` that matches a pattern, sorted; of the Hub's `repository` where `folder` is None.

    What the Hub has was fetched before or is fetched now; HF_HUB_OFFLINE=1 forbids the latter.

    Raises:
        ConfigError: there is no such folder, the Hub cannot be reached, or a pattern has no file.
    """
    root = _from_hub(reward, repository, patterns) if folder is None else Path(folder).expanduser()
    if not root.is_dir():
        raise ConfigError(f"{reward}: {root} is no folder: give the one that holds its weights")
    missing = [pattern for pattern in patterns if not any(root.glob(pattern))]
    if missing:
        raise ConfigError(
            f"{reward}: no {' nor '.join(missing)} in {root}: put the files of {repository} there"
        )
    return sorted({path for pattern in patterns for path in root.glob(pattern)})


def has_files(folder: str | None, pattern: str) -> bool:
    """Whether the user's folder has a file that matches."""
    return folder is not None and any(Path(folder).expanduser().glob(pattern))


def _from_hub(reward: str, repository: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:  # offline and not in the cache, unknown, gated, no network
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        raise ConfigError(
            f"{reward}: its weights are not on this machine and {repository} cannot be fetched ({reason}): "
            f"run `hf download {repository}` where there is a network, or give a folder, {reward}:FOLDER"
        ) from error


def identity(formula: str, files: Sequence[Path]) -> str:
    """16 hex digits: of the formula, and of the names and contents of the files.

    Reading the files takes a second or two for each GB.
    """
    lines = [formula, *sorted(f"{path.name} {sha256_file(path)}" for path in files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def load_state(reward: str, path: Path) -> dict[str, Any]:
    """The tensors of a .pt or .pth file, on the CPU; nothing in it is executed.

    Raises:
        ConfigError: a file that holds more than tensors and plain containers, or is damaged.
    """
    import torch

    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever such a file raises, it is not one of weights
        raise ConfigError(
            f"{reward}: {path} is not a file of weights: get it again from its source"
        ) from error
    return state
