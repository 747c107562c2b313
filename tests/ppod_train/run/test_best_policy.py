"""policy/ holds the weights of the best step, wherever a run was killed and however it goes on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppod_data.errors import ConfigError
from ppod_data.storage.files import sha256_file
from ppod_train.library.export import export_policy
from ppod_train.run import train
from tests.support.training import SETTINGS, Killed, compared, run

LORA = "pytorch_lora_weights.safetensors"
OFTEN = replace(SETTINGS, eval_every=1, checkpoint_every=4, learning_rate=1e-2)
"""An evaluation after every step, and a checkpoint after every fourth."""


class Scripted:
    """A reward whose evaluations have the given values in turn; it ends the process at a value of NaN."""

    name, revision = "scripted", "1"

    def __init__(self, *values: float) -> None:
        self._values = [value for value in values for _ in range(2)]  # two prompts

    def score(self, prompts: Sequence[str], images: Sequence[Any]) -> list[float]:
        value = self._values.pop(0)
        if math.isnan(value):
            raise KeyboardInterrupt
        return [value] * len(images)


def checkpoints(out: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").iterdir())


def policy(out: Path) -> str:
    return sha256_file(out / "policy" / LORA)


def policy_of(out: Path, step: int, place: Path) -> str:
    """Return the sha256 of the policy of a checkpoint."""
    export_policy(out / "checkpoints" / f"step-{step:06d}", place)
    return sha256_file(place / LORA)


def test_a_better_policy_between_checkpoints_survives_a_kill_with_its_checkpoint(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(recorded, out, tiny_pipeline, Scripted(0, 1, 2, math.nan), OFTEN)
    kept = policy(out)
    with pytest.raises(ConfigError, match="has completed 2 steps: give --num-train-steps 2 or more"):
        run(recorded, out, tiny_pipeline, Scripted(), replace(OFTEN, num_train_steps=1))
    summary, steps = run(recorded, out, tiny_pipeline, Scripted(), replace(OFTEN, num_train_steps=2))
    assert (summary.steps, summary.best_step, summary.reward_best, steps) == (2, 2, 2.0, [])
    assert policy(out) == kept == policy_of(out, 2, tmp_path / "exported")


def test_repeated_steps_that_score_otherwise_leave_the_policy_of_the_best_step(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(recorded, out, tiny_pipeline, Scripted(0, 1, 5, 2, math.nan), OFTEN)
    assert checkpoints(out) == [1, 2]
    best = policy_of(out, 2, tmp_path / "exported")
    summary, _ = run(recorded, out, tiny_pipeline, Scripted(0, 0, 0, 0), OFTEN)
    assert summary.best_step == 2 and policy(out) == best


def killed_at_call(write: Callable[..., None], number: int) -> Callable[..., None]:
    """Return `write`, whose call `number` ends the process before anything is written."""
    calls = iter(range(1, number + 1))

    def counted(*args: Any) -> None:
        if next(calls) == number:
            raise Killed
        write(*args)

    return counted


@pytest.mark.parametrize(("write", "call", "newest"), [("store_checkpoint", 3, 2), ("store_policy", 4, 3)])
def test_a_kill_before_either_write_of_a_best_policy_leaves_what_a_resume_reads(
    recorded: Path,
    tiny_pipeline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: str,
    call: int,
    newest: int,
) -> None:
    """Every step is the best so far. The run is killed before the third step's checkpoint, or before its policy."""
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(train, write, killed_at_call(getattr(train, write), call))
        with pytest.raises(Killed):
            run(recorded, out, tiny_pipeline, Scripted(0, 1, 2, 3), OFTEN)
    assert checkpoints(out)[-1] == newest
    short = replace(OFTEN, num_train_steps=newest)
    summary, _ = run(recorded, out, tiny_pipeline, Scripted(), short)
    assert summary.best_step == newest
    assert policy(out) == policy_of(out, newest, tmp_path / "exported")
    resumed, _ = run(recorded, out, tiny_pipeline, Scripted(*range(newest + 1, 7)), OFTEN)
    whole, _ = run(recorded, tmp_path / "whole", tiny_pipeline, Scripted(*range(7)), OFTEN)
    assert resumed == whole and policy(out) == policy(tmp_path / "whole")


def test_a_moving_average_is_stored_again_from_its_checkpoint(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(OFTEN, ema_decay=0.5, num_train_steps=2)
    run(recorded, tmp_path / "whole", tiny_pipeline, Scripted(0, 1, 2), settings)
    with monkeypatch.context() as patched:
        patched.setattr(train, "store_policy", killed_at_call(train.store_policy, 3))
        with pytest.raises(Killed):
            run(recorded, tmp_path / "run", tiny_pipeline, Scripted(0, 1, 2), settings)
    run(recorded, tmp_path / "run", tiny_pipeline, Scripted(), settings)
    assert compared(tmp_path / "run") == compared(tmp_path / "whole")


def test_checkpoints_of_better_policies_replace_each_other(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    run(recorded, tmp_path, tiny_pipeline, Scripted(0, 1, 2, 3, 4, 5, 6), OFTEN)
    assert checkpoints(tmp_path) == [5, 6]


def test_the_policy_of_an_ended_run_is_not_written_again(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    settings = replace(OFTEN, num_train_steps=2)
    run(recorded, tmp_path, tiny_pipeline, Scripted(0, 1, 2), settings)
    (tmp_path / "policy" / "notes.txt").write_text("of the user")
    run(recorded, tmp_path, tiny_pipeline, Scripted(), settings)
    assert (tmp_path / "policy" / "notes.txt").is_file()


def test_a_run_that_starts_again_has_no_summary_of_the_earlier_one(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    settings = replace(OFTEN, num_train_steps=2)
    run(recorded, tmp_path, tiny_pipeline, Scripted(0, 1, 2), settings)
    for step in checkpoints(tmp_path):
        (tmp_path / f"checkpoints/step-{step:06d}").rename(tmp_path.parent / f"removed-{step}")
    with pytest.raises(Killed):
        run(recorded, tmp_path, tiny_pipeline, Scripted(0, 1, 2), settings, kill_at=1)
    assert not (tmp_path / "summary.json").exists()
