"""Training runs on the tiny pipeline, each as a fresh process would do it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppod_data.storage.files import DataPath, sha256_file
from ppod_data.support.progress import Silent
from ppod_train.run.train import TrainSummary, train_offline
from ppod_train.settings import TrainSettings
from ppod_train.step.metrics import StepMetrics
from tests.ppod_train.conftest import source_of
from tests.support.models import load_again

SETTINGS = TrainSettings(
    num_train_steps=6,
    pairs_per_step=4,
    lora_rank=4,
    log_ratio_clip=0.01,
    eval_every=3,
    eval_images_per_prompt=4,
    checkpoint_every=2,
    patience=0,
)


class Killed(Exception):
    """Stands for the end of a process between two steps."""


class Steps(Silent):
    """Counts the optimizer steps of a run, and ends it after the step `kill_at`."""

    def __init__(self, kill_at: int = -1, error: type[Exception] = Killed) -> None:
        self.step = self.taken = 0
        self._kill_at, self._error = kill_at, error

    def skip(self, count: int) -> None:
        self.step = count

    def advance(self, count: int) -> None:
        self.step += count
        self.taken += count
        if self.step == self._kill_at:
            raise self._error


def run(
    data: Path | Sequence[DataPath],
    out: Path,
    pipeline: Path,
    reward: Any,
    settings: TrainSettings = SETTINGS,
    *,
    start: Path | None = None,
    kill_at: int = -1,
    **source: Any,
) -> tuple[TrainSummary, list[StepMetrics]]:
    """Train on one data set or several, from the policy in the folder `start` or from the reference."""
    steps = Steps(kill_at)
    summary = train_offline(
        source_of(*([data] if isinstance(data, Path) else data), **source),
        out,
        settings,
        model=load_again(pipeline),
        reward=reward,
        start=start,
        progress=steps,
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return summary, [StepMetrics(**line) for line in lines[len(lines) - steps.taken :]]


def compared(out: Path) -> dict[str, str]:
    """What must be the same for a resumed run: all but times and the tracker's event files."""
    files = {
        path.relative_to(out).as_posix(): sha256_file(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts and path.name != "metrics.jsonl"
    }
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return files | {
        "metrics": json.dumps([{k: v for k, v in line.items() if k != "seconds"} for line in lines])
    }
