"""Export of a checkpoint's policy for plain diffusers, in the layout of a run's policy folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppod_data.diffusion.models.model import load_model
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.storage.folder_kinds import check_not_inside
from ppod_data.storage.json_reader import read_object
from ppod_train.policy.policy import policy_weights, save_policy, trainable_parameters
from ppod_train.run.checkpoint import latest_checkpoint, load_state, load_weights


@dataclass(frozen=True, kw_only=True)
class ExportedPolicy:
    """An exported policy."""

    policy: Path
    step: int
    """Optimizer steps of the checkpoint."""
    model: str
    """The pipeline of a LoRA."""
    whole: bool
    """True for a whole pipeline, False for a LoRA."""


def export_policy(checkpoint: Path, out: Path) -> ExportedPolicy:
    """Write the policy of a checkpoint to the new folder `out`, with averaged weights if the run averages.

    Args:
        checkpoint: RUN/checkpoints/step-NNNNNN, or RUN for its newest checkpoint.

    Raises:
        ConfigError: no checkpoint, a reference that differs from the run's, or an existing folder `out`.
        DamagedError: a file of the run cannot be read.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: give a new folder for --out")
    check_not_inside(out, option="--out")
    checkpoint = _checkpoint(checkpoint)
    run = checkpoint.parents[1]
    record, state = read_object(run / "run.json"), load_state(checkpoint)
    try:
        return _export(record, state, checkpoint, out)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{run / 'run.json'} is not the record of a run ({error!r})") from error


def _checkpoint(path: Path) -> Path:
    """Return the folder of a checkpoint, given as the folder, its weights file, or a run (newest checkpoint)."""
    path = path.parent if path.name == "weights.safetensors" else path
    if (path / "run.json").is_file():
        newest = latest_checkpoint(path / "checkpoints")
        if newest is None:
            raise ConfigError(f"{path} has no checkpoint yet: one is written every --checkpoint-every steps")
        return newest
    if not (path / "state.json").is_file() or not (path.resolve().parents[1] / "run.json").is_file():
        raise ConfigError(
            f"{path} is not a checkpoint of a run: give RUN/checkpoints/step-NNNNNN, or RUN for the newest"
        )
    return path.resolve()


def _export(
    record: Mapping[str, Any], state: Mapping[str, Any], checkpoint: Path, out: Path
) -> ExportedPolicy:
    settings, identity, generation = record["settings"], state["identity"], record["generation"]
    lora_rank: int = settings["lora_rank"]
    model = load_model(
        record["model"],
        revision=generation.get("revision"),
        variant=generation.get("variant"),
        compute_dtype=generation["compute_dtype"] if lora_rank else "fp32",
    )
    if model.fingerprint != identity["reference_fingerprint"]:
        raise ConfigError(
            f"the weights of {record['model']} have changed since the run began: restore the model that the run used"
        )
    parameters = trainable_parameters(
        model, lora_rank=lora_rank, seed=settings["seed"], start=_start(record, identity)
    )
    average = (
        {name: value.detach().clone() for name, value in parameters.items()} if settings["ema_decay"] else {}
    )
    load_weights(checkpoint, parameters=parameters, average=average)
    with policy_weights(parameters, average):
        save_policy(model, out)
    return ExportedPolicy(
        policy=out, step=state["progress"]["step"], model=record["model"], whole=not lora_rank
    )


def _start(record: Mapping[str, Any], identity: Mapping[str, Any]) -> Path | None:
    """Return the policy that the run started from, which has the run's layers and ranks; None for the reference."""
    if identity["start_fingerprint"] == identity["reference_fingerprint"]:
        return None
    start = record.get("start")
    if not isinstance(start, str) or not Path(start).exists():
        raise ConfigError(
            f"the policy that this run started from is not at {start}, and the export needs its LoRA layers: "
            "restore it"
        )
    return Path(start)
