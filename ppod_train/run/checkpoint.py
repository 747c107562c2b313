"""Checkpoints for bit-exact resume: weights, optimizer state, progress and the identity of the run.

No pickle: tensors are safetensors, everything else is JSON. A checkpoint folder is written atomically.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ppod_data.errors import ConfigError, DamagedError
from ppod_data.storage.files import refuse_pointer_file
from ppod_data.storage.folders import new_folder, remove_folder
from ppod_data.storage.json_reader import read_object
from ppod_data.storage.unreadable import raise_if_unreadable
from ppod_train.policy.fsdp import like, whole
from ppod_train.settings import OLDER_VALUES

KEPT = 2
"""Number of newest checkpoints that are kept."""
_ADVICE = "delete the checkpoint and run again"
_AVERAGE = "average/"
_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Tensors:
    """Tensors of a checkpoint, unsharded and on the CPU, by their names in the files."""

    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]

    @classmethod
    def of(
        cls,
        parameters: Mapping[str, torch.nn.Parameter],
        average: Mapping[str, torch.Tensor],
        optimizer: torch.optim.Optimizer,
    ) -> "Tensors":
        """Copy the tensors to the CPU. With sharded weights every process must call this method.

        Args:
            parameters: the trained weights by name, in the optimizer's order.
            average: the moving average of the weights by the same names, or an empty mapping.
        """
        weights = {name: _copied(parameter) for name, parameter in parameters.items()}
        averaged = {f"{_AVERAGE}{name}": _copied(value) for name, value in average.items()}
        moments = {
            f"{name}/{key}": _copied(value)
            for name, parameter in parameters.items()
            for key, value in optimizer.state[parameter].items()
        }
        return cls(weights | averaged, moments)


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return whole(tensor.detach()).cpu().contiguous()


def save_checkpoint(folder: Path, *, step: int, tensors: Tensors, state: Mapping[str, Any]) -> None:
    """Write `folder`/step-NNNNNN and remove all but the newest two checkpoints.

    Args:
        state: JSON values: the training loop's progress, and the identities that a resume must match.
    """
    from safetensors.torch import save

    with new_folder(folder / f"step-{step:06d}") as temporary:
        (temporary / _WEIGHTS).write_bytes(save(dict(tensors.weights)))
        (temporary / _OPTIMIZER).write_bytes(save(dict(tensors.optimizer)))
        (temporary / _STATE).write_bytes(json.dumps(dict(state), indent=1).encode())
    remove_older(folder)


def remove_older(folder: Path) -> None:
    """Remove all checkpoints except the newest two."""
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        remove_folder(old)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, or None."""
    return max(folder.glob("step-*"), default=None)


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Read the JSON state of a checkpoint.

    Raises:
        DamagedError: the file cannot be read.
    """
    try:
        return read_object(checkpoint / _STATE, advice=_ADVICE)
    except OSError as error:
        raise_if_unreadable(error, checkpoint / _STATE)
        raise DamagedError(f"checkpoint {checkpoint} is damaged ({error}): {_ADVICE}") from error


def load_checkpoint(
    checkpoint: Path,
    *,
    parameters: Mapping[str, torch.nn.Parameter],
    average: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Load a checkpoint's weights, their average and the optimizer state in place.

    Raises:
        DamagedError: a file of the checkpoint cannot be read, or its weights do not match the policy.
    """
    load_weights(checkpoint, parameters=parameters, average=average)
    load_optimizer(checkpoint, parameters=parameters, optimizer=optimizer)


def load_weights(
    checkpoint: Path,
    *,
    parameters: Mapping[str, torch.nn.Parameter],
    average: Mapping[str, torch.Tensor],
) -> None:
    """Load a checkpoint's weights and their average in place.

    Raises:
        DamagedError: the file cannot be read, or its weights do not match the policy.
    """
    weights = _read(checkpoint, _WEIGHTS)
    if weights.keys() != parameters.keys() | {f"{_AVERAGE}{name}" for name in average}:
        raise DamagedError(f"checkpoint {checkpoint} does not match the weights of this policy: delete it")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(like(parameter, weights[name]))
            if name in average:
                average[name].copy_(weights[f"{_AVERAGE}{name}"])


def load_optimizer(
    checkpoint: Path,
    *,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Load a checkpoint's optimizer state in place, without its weights; later stages continue with it.

    Raises:
        DamagedError: the file cannot be read.
    """
    moments = _read(checkpoint, _OPTIMIZER)
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {
            key.rsplit("/", 1)[1]: value if key.endswith("/step") else like(parameter, value)
            for key, value in moments.items()
            if key.rsplit("/", 1)[0] == name
        }


def _read(checkpoint: Path, name: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        refuse_pointer_file(checkpoint / name)  # safetensors calls any file that it cannot open missing
        tensors: dict[str, torch.Tensor] = load_file(checkpoint / name)
    except (OSError, SafetensorError) as error:
        raise_if_unreadable(error, checkpoint / name)
        raise DamagedError(
            f"checkpoint {checkpoint} is damaged ({error}): delete it and run again"
        ) from error
    return tensors


def check_same_run(
    state: Mapping[str, Any], identity: Mapping[str, Any], *, free: Collection[str] = ()
) -> None:
    """Reject a resume with settings, data or a reference that differ from those of the run.

    Args:
        free: names of the identities that may differ.

    Raises:
        ConfigError: names the first identity that differs, with both values.
    """
    for key, value in identity.items():
        before = state["identity"].get(key, OLDER_VALUES.get(key))
        if key not in free and before != value:
            raise ConfigError(
                f"this run was started with {key} {before!r}, not {value!r}: "
                "give the same options, or another --out"
            )
