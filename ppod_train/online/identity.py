"""online.json: the identity of an online run, and the options with which the run may be started again.

The evaluation of the reference and the data and pairs of the first stage depend on the generation, the reward, the
online options and the training's seed. All other options of training are first read by the first optimizer step. Until
that step they may change, so that the user can follow the advice of an error, such as a smaller batch, in the same
folder. online.json is written at every start, before any phase, so it names the options of the first step.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from ppod_data.errors import ConfigError
from ppod_data.format.spec import GenerationSpec, to_json
from ppod_data.inspect.judge import judge_of_reward
from ppod_data.storage.json_reader import read_object
from ppod_data.support.environment import environment
from ppod_train.online.inputs import OnlineRun
from ppod_train.online.settings import OnlineSettings
from ppod_train.run.checkpoint import latest_checkpoint
from ppod_train.run.exclusive import only_run
from ppod_train.run.model_defaults import resolve
from ppod_train.run.resume import MAY_CHANGE, has_steps
from ppod_train.run.run_folder import generation_of, write_json
from ppod_train.settings import OLDER_VALUES

_OLDER = {
    "replay_stages": 0,
    "window_stride": 0,
    **{f"train.{name}": value for name, value in OLDER_VALUES.items()},
}
"""Values that options had before they existed, for the records of older runs."""

_FREE = frozenset(f"train.{name}" for name in MAY_CHANGE) - {"train.num_train_steps"}
"""Options that change no result of a stage, which is trained without evaluations: they may change at any time."""

_READ_BEFORE_TRAINING = frozenset({"train.seed"})
"""Options of training that the evaluation of the reference reads: its validation noise."""


def write_record(run: OnlineRun, spec: GenerationSpec, folder: ExitStack) -> list[Callable[[], None]]:
    """Write online.json, or check that the run in the folder is this run; the number of stages may grow.

    The folder is locked until `folder` is closed. A run without results, for example because the reward could not
    read the prompts, may be started again with other options; a run without an optimizer step with other options of
    training.

    Returns:
        In the main process, the functions to call once there are results to keep.

    Raises:
        ConfigError: the folder holds a run with other options, or another process is running in it.
    """
    settings = replace(run.settings, train=resolve(run.settings.train, spec))
    identity = _identity(run, settings, spec)
    record = {
        "num_stages": settings.num_stages,
        "settings": asdict(settings) | {"replay_stages": settings.replay},
        "model": run.reference.model,
        "reward": identity["reward"],
        "judge": judge_of_reward(run.reward).to_json(),
        "generation": generation_of(spec),
        "prompts": list(spec.prompts),
        "identity": identity,
        "environment": environment(),
    }
    _check_same_run(run, identity)  # in every process, for one error
    keep_calls: list[Callable[[], None]] = []

    def write() -> None:
        keep_calls.append(folder.enter_context(only_run(run.out)))
        _check_same_run(run, identity)  # a run that ended since then may have taken its first step
        write_json(run.out / "online.json", record)

    run.workers.on_main(write)
    return keep_calls


def _identity(run: OnlineRun, settings: OnlineSettings, spec: GenerationSpec) -> dict[str, Any]:
    """Return what a resume must match, as JSON values; an infinite clip stays infinity.

    Args:
        run: the run.
        settings: its settings with the model's defaults.
        spec: of the first stage's data, before a stage's draw of prompts.
    """
    online = {
        name: value
        for name, value in asdict(settings).items()
        if name not in ("num_stages", "stop_when", "train")
    }
    train = {f"train.{name}": value for name, value in asdict(settings.train).items() if name != "report_to"}
    identity: dict[str, Any] = json.loads(
        json.dumps(
            {
                **online,
                "replay_stages": settings.replay,
                **train,
                "reward": f"{run.reward.name} {run.reward.revision}",
                "generation": to_json(spec),
            }
        )
    )
    return identity


def _check_same_run(run: OnlineRun, identity: dict[str, Any]) -> None:
    """Raise ConfigError if the folder holds results of a run with other options, or with more stages."""
    path = run.out / "online.json"
    if not path.exists() or not ((run.out / "evals").exists() or run.folder(1).exists()):
        return
    record, has_trained = read_object(path), _has_trained(run)
    for key, value in identity.items():
        before = record["identity"].get(key, _OLDER.get(key))
        if before != value and not _may_change(key, has_trained):
            name, before, value = _first_difference(key, before, value)
            raise ConfigError(
                f"this online run was started with {name} {_short(before)}, not {_short(value)}: "
                "give the same options, or another --out"
            )
    if has_trained:
        _check_horizon(run, record["num_stages"])
    if run.folder(run.settings.num_stages + 1).exists():
        raise ConfigError(
            f"this online run is in stage {len(list(run.out.glob('stage-*')))}, past --stages "
            f"{run.settings.num_stages}: give at least that number, or another --out"
        )


def _has_trained(run: OnlineRun) -> bool:
    """Return True if the first stage has completed an optimizer step."""
    folder = run.folder(1)
    checkpoint = latest_checkpoint(folder / "run" / "checkpoints")
    return (folder / "stage.json").exists() or checkpoint is not None or has_steps(folder / "run")


def _may_change(key: str, has_trained: bool) -> bool:
    """Return True if nothing that the run has made depends on an option."""
    if key in _FREE:
        return True
    is_read_in_training = key.startswith("train.") or key == "replay_stages"
    return not has_trained and is_read_in_training and key not in _READ_BEFORE_TRAINING


def _check_horizon(run: OnlineRun, num_stages: int) -> None:
    """Raise ConfigError if a run whose learning rate falls to 0 at its end is given another number of stages."""
    rule = run.settings.train.lr_scheduler
    if rule != "constant" and num_stages != run.settings.num_stages:
        raise ConfigError(
            f"the learning rate of this online run falls to 0 at the end of stage {num_stages} (lr_scheduler {rule}): "
            f"give --stages {num_stages}, or another --out; a run with --lr-scheduler constant may be extended"
        )


def _first_difference(key: str, before: object, value: object) -> tuple[str, object, object]:
    """Return the name and both values of an option; of an object, such as the generation, those of a field."""
    if isinstance(before, dict) and isinstance(value, dict):
        for name in before | value:
            if before.get(name) != value.get(name):
                return f"{key}.{name}", before.get(name), value.get(name)
    return key, before, value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
