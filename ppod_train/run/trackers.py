"""Trackers of a run: TensorBoard, wandb, trackio and mlflow, each by its own package.

A tracker gets the metrics of every step, and of every evaluation its metrics, the statistics of its images and a sheet
of samples. Where a tracker keeps its files is its own choice (WANDB_MODE, TRACKIO_DIR, MLFLOW_TRACKING_URI …); a
resumed run is a second run of the same name.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppod_train.evaluation.files import contact_sheet, sheet_prompts
from ppod_train.evaluation.metrics import EvalResult

TENSORBOARD = "tensorboard"
PROJECT = "ppod"
_SAMPLES = "samples"
_MAX_SHEET = 1600
"""Pixels of the longer side of a sheet of samples."""


@dataclass(frozen=True)
class Tracker:
    """Functions that write to a tracker."""

    log: Callable[[Mapping[str, float], int], None]
    """Write named values at a step."""
    log_image: Callable[[str, Image.Image, int], None]
    """Write a named image at a step."""

    def log_evaluation(self, step: int, result: EvalResult) -> None:
        """Write the metrics of an evaluation, the statistics of its images, and its first images."""
        self.log(evaluation_values(result), step)
        rows = [result.measurements[prompt].images for prompt in sheet_prompts(result)]
        if all(rows):
            sheet = contact_sheet(rows)
            sheet.thumbnail((_MAX_SHEET, _MAX_SHEET), Image.Resampling.LANCZOS)
            self.log_image(_SAMPLES, sheet, step)


def evaluation_values(result: EvalResult) -> dict[str, float]:
    """Return the values of an evaluation: eval/… of the scorers, images/… of the statistics; unknown ones left out."""
    metrics = result.overall
    values = {
        "eval/reward": metrics.reward_mean,
        "eval/correct": metrics.correct,
        "eval/win_rate": metrics.win_rate,
        "eval/gain": metrics.gain,
        "eval/check_reward": metrics.check_reward_mean,
        "eval/check_gain": metrics.check_gain,
        "eval/diversity": metrics.diversity,
    }
    values |= {f"images/{name}": change.mean for name, change in result.images.items()}
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def open_tracker(name: str, out: Path, settings: Mapping[str, Any] | None = None) -> Iterator[Tracker | None]:
    """Open the tracker `name` of the run in `out` until the block ends; None for "none".

    Args:
        settings: settings of the run, which are stored if they are given.
    """
    given = {key: value for key, value in (settings or {}).items() if isinstance(value, str | int | float)}
    if name == TENSORBOARD:
        with _tensorboard(out, given) as tracker:
            yield tracker
    elif name == "none":
        yield None
    else:
        with _OPENERS[name](run_name(out), given) as tracker:
            yield tracker


def run_name(out: Path) -> str:
    """Return the name of the run in `out`: its folder's, and of a stage the online run's and the stage's."""
    stage = out.parent
    return f"{stage.parent.name}-{stage.name}" if stage.name.startswith("stage-") else out.name


@contextmanager
def _tensorboard(out: Path, settings: Mapping[str, Any]) -> Iterator[Tracker]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / TENSORBOARD)) as writer:
        if settings:
            writer.add_hparams(dict(settings), metric_dict={}, run_name=".")

        def log(values: Mapping[str, float], step: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, global_step=step)
            writer.flush()

        def log_image(name: str, image: Image.Image, step: int) -> None:
            writer.add_image(name, np.asarray(image), global_step=step, dataformats="HWC")
            writer.flush()

        yield Tracker(log, log_image)


@contextmanager
def _wandb(run: str, settings: Mapping[str, Any]) -> Iterator[Tracker]:
    import wandb

    with wandb.init(project=PROJECT, name=run, group=run, config=dict(settings)) as opened:
        yield Tracker(
            lambda values, step: opened.log(dict(values), step=step),
            lambda name, image, step: opened.log({name: wandb.Image(image)}, step=step),
        )


@contextmanager
def _trackio(run: str, settings: Mapping[str, Any]) -> Iterator[Tracker]:
    import trackio

    opened = trackio.init(project=PROJECT, name=run, config=dict(settings), resume="allow")
    try:
        yield Tracker(
            lambda values, step: opened.log(dict(values), step=step),
            lambda name, image, step: opened.log({name: trackio.Image(image)}, step=step),
        )
    finally:
        trackio.finish()


@contextmanager
def _mlflow(run: str, settings: Mapping[str, Any]) -> Iterator[Tracker]:
    import mlflow

    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    with mlflow.start_run(run_name=run):
        mlflow.log_params(dict(settings))
        yield Tracker(
            lambda values, step: mlflow.log_metrics(dict(values), step=step),
            lambda name, image, step: mlflow.log_image(image, key=name, step=step),
        )


_OPENERS = {"wandb": _wandb, "trackio": _trackio, "mlflow": _mlflow}
