"""The state that a run keeps and resumes from, and the settings with which it may."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppod_data.errors import ConfigError
from ppod_data.storage.json_reader import read_object
from ppod_train.policy.fsdp import whole
from ppod_train.policy.policy import policy_weights, save_policy
from ppod_train.report.records import read_json
from ppod_train.run.checkpoint import (
    Tensors,
    check_same_run,
    latest_checkpoint,
    load_checkpoint,
    load_state,
    save_checkpoint,
)
from ppod_train.run.run_folder import forget_after, identity_of
from ppod_train.settings import TrainSettings
from ppod_train.step.train_step import TrainState

MAY_CHANGE = ("num_train_steps", "patience", "stop_when", "report_to", "checkpoint_every", "max_graph_gib")
"""Settings that a resumed run may change: the length of the run, and the memory of its graph."""


@dataclass
class Counters:
    """State of a run in addition to weights and optimizer; a resume continues from it."""

    step: int = 0
    best_step: int = 0
    best_reward: float = -math.inf
    evals_since_best: int = 0
    reward_queries: int = 0
    """Images scored for validation so far; they count as queries, as the data set's images do."""
    gradient_share: float = 1.0
    scale_drops: int = 0
    exploited: bool = False
    """The newest evaluation found the reward exploited, or the images collapsed."""


def is_finished(settings: TrainSettings, counters: Counters) -> bool:
    """Return whether a run has no step left."""
    return counters.step >= settings.num_train_steps or stopped_early(settings, counters)


def stopped_early(settings: TrainSettings, counters: Counters) -> bool:
    """Return whether a run ends before its last step: its evaluations do not improve, or the reward is exploited."""
    if settings.stop_when == "exploited" and counters.exploited:
        return True
    return bool(settings.patience) and counters.evals_since_best >= settings.patience


def resume(out: Path, state: TrainState) -> Counters:
    """Resume from the newest checkpoint, or from the start; results after the checkpoint are computed again.

    A checkpoint of the best policy is written before that policy. If a kill came between them, the policy is stored.
    """
    identity = identity_of(state)
    checkpoint = latest_checkpoint(out / "checkpoints")
    if checkpoint is None:
        if (out / "run.json").exists() and has_steps(out):
            recorded = read_object(out / "run.json")
            _check_horizon(out, recorded["identity"], state.settings)
            check_same_run(recorded, identity, free=MAY_CHANGE)
        counters = Counters()
    else:
        saved = load_state(checkpoint)
        _check_horizon(out, saved["identity"], state.settings)
        check_same_run(saved, identity, free=MAY_CHANGE)
        _check_length(out, checkpoint, state.settings, saved["progress"]["step"])
        load_checkpoint(
            checkpoint,
            parameters=state.parameters,
            average=state.average,
            optimizer=state.optimizer,
        )
        counters = Counters(**saved["progress"])
    state.workers.on_main(lambda: forget_after(out, counters.step))
    if checkpoint is not None and counters.best_step == counters.step and not _has_ended_at(out, counters):
        store_policy(state, out)
    return counters


def store_checkpoint(folder: Path, state: TrainState, counters: Counters) -> None:
    """Write a checkpoint of the weights, the optimizer and the counters; all processes call this function."""
    workers = state.workers
    tensors = Tensors({}, {})
    if workers.is_main or workers.sharded:
        tensors = Tensors.of(state.parameters, state.average, state.optimizer)
    saved = {"progress": asdict(counters), "identity": identity_of(state)}
    workers.on_main(lambda: save_checkpoint(folder, step=counters.step, tensors=tensors, state=saved))


def store_policy(state: TrainState, out: Path) -> None:
    """Write the policy of a run; all processes call this function."""
    model, workers = state.model, state.workers
    weights = None
    if workers.sharded:
        weights = {name: whole(value).cpu() for name, value in model.denoiser.state_dict().items()}
    with policy_weights(state.parameters, state.average):
        workers.on_main(lambda: save_policy(model, out / "policy", weights))


def check_same_table(out: Path, table: str) -> None:
    """Raise ConfigError if the run in `out` trains on another table, before the settings are compared."""
    if not (out / "run.json").exists() or not has_steps(out):
        return
    before = read_object(out / "run.json").get("targets", table)
    if before != table:
        raise ConfigError(f"{out} holds a run on {before}, not {table}: give another --out")


def _check_horizon(out: Path, recorded: Mapping[str, Any], settings: TrainSettings) -> None:
    """Raise ConfigError if a run whose learning rate falls to 0 at its end is given another end."""
    length, rule = recorded.get("num_train_steps"), recorded.get("lr_scheduler", "constant")
    if rule == settings.lr_scheduler != "constant" and length != settings.num_train_steps:
        raise ConfigError(
            f"the learning rate of {out} falls to 0 at step {length} (lr_scheduler {rule}): give --num-train-steps "
            f"{length}, or another --out"
        )


def _check_length(out: Path, checkpoint: Path, settings: TrainSettings, step: int) -> None:
    """Raise ConfigError if the settings ask for fewer steps than the run has completed."""
    if settings.num_train_steps < step:
        raise ConfigError(
            f"{out} has completed {step} steps: give --num-train-steps {step} or more, or export a checkpoint's "
            f"policy by ppod-train export {checkpoint} --out DIR"
        )


def _has_ended_at(out: Path, counters: Counters) -> bool:
    """Return True if the run has ended at this step: its policy was stored before its summary."""
    return (read_json(out / "summary.json") or {}).get("steps") == counters.step


def has_steps(out: Path) -> bool:
    """Return True if the run has completed a step; a run without steps may be started with other options."""
    metrics = out / "metrics.jsonl"
    return metrics.is_file() and metrics.stat().st_size > 0
