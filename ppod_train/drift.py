"""Replay stored steps before training: does the trainer compute the log-probabilities that the sampler recorded?"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ppod_data.errors import DriftError
from ppod_data.generate import Sampler
from ppod_train.batches import load_batch
from ppod_train.data import TrainingData
from ppod_train.gradient import all_log_probs
from ppod_train.log_probs import batch_log_probs
from ppod_train.workers import ALONE, Workers

_UNUSUAL = 2
"""Trajectories that are replayed because their recorded numbers are far from the others'."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """|replayed − stored| log-probability of an untouched policy."""

    steps: tuple[int, ...]
    """The chain steps that were replayed."""
    median: tuple[float, ...]
    """For each step."""
    p99: tuple[float, ...]
    overall_p99: float
    largest: float = 0.0
    """Of all that were replayed; the trajectories with the most unusual recorded numbers are among them."""
    share_exact: float
    """The share of replayed steps whose log-probability is the stored one to the last bit."""


@torch.no_grad()
def measure_drift(
    data: TrainingData,
    sampler: Sampler,
    *,
    num_trajectories: int,
    batch_size: int,
    recorded: bool = False,
    workers: Workers = ALONE,
) -> Drift:
    """Replay all trained steps of some trajectories in the trainer's batch shape, guidance mode and precision.

    Args:
        sampler: with the network of the policy whose log-probabilities are compared: the reference's, or with
            `recorded` that of the policy that made the data.
    """
    count = min(num_trajectories, len(data.units))
    unusual = _most_unusual(data, min(_UNUSUAL, count // 2), recorded)
    spread = np.linspace(0, len(data.units) - 1, count - len(unusual)).astype(
        int
    )  # of every data set, many prompts
    places = np.unique(np.concatenate([spread, unusual]))
    batch = load_batch(data, data.units[places], data.steps, sampler.model.device)
    stored = batch.reference_log_probs + (batch.targets.anchors if recorded else 0.0)
    replayed = all_log_probs(
        batch_log_probs(data.spec, sampler, batch), stored, chunk_size=batch_size, workers=workers
    )
    error = (replayed - stored).abs().cpu().numpy()
    return Drift(
        steps=data.steps,
        median=tuple(np.median(error, axis=0).tolist()),
        p99=tuple(np.quantile(error, 0.99, axis=0).tolist()),
        overall_p99=float(np.quantile(error, 0.99)),
        largest=float(error.max()),
        share_exact=float((error == 0).mean()),
    )


def check_drift(drift: Drift, log_ratio_clip: float) -> None:
    """Raise DriftError where the clip band could not tell training from rounding, or one number is plainly wrong."""
    worst = float(np.max(drift.p99))  # NaN where one of them is
    if not worst <= log_ratio_clip / 10:
        raise DriftError(
            f"replayed log-probabilities differ from the stored ones by {worst:.1e} (p99 of the worst "
            f"step), more than a tenth of the clip {log_ratio_clip:g}: recompute the reference's with "
            "`ppod-data log-probs` and name them by --reference-log-probs, train with --compute-dtype fp32, or "
            "widen --log-ratio-clip"
        )
    if not drift.largest <= log_ratio_clip:
        raise DriftError(
            f"a replayed log-probability differs from the stored one by {drift.largest:.1e}, more than the clip "
            f"{log_ratio_clip:g}, and others do not: some recorded numbers are wrong: find them with ppod-data verify "
            "--model, and exclude these samples"
        )


def _most_unusual(data: TrainingData, count: int, recorded: bool) -> NDArray[np.int64]:
    """Return the places in `data.units` of the `count` trajectories whose stored numbers are farthest from the others'.

    A few wrong numbers among many right ones are seldom in a sample, and always at an end of their step's range.
    """
    values = data.behaviour_log_probs if recorded else data.reference_log_probs
    values = values[:, list(data.steps)]
    distance = np.abs(values - np.median(values, axis=0))
    scale = np.median(distance, axis=0) + np.finfo(np.float64).tiny
    with np.errstate(over="ignore"):
        order = np.argsort(-(distance / scale).max(axis=1), kind="stable")
    places: list[int] = []
    for row in order.tolist():
        if len(places) == count:
            break
        if data.on_pairs:
            here = np.flatnonzero((data.chosen == row) | (data.rejected == row))[:1]
        else:
            here = np.flatnonzero(data.units == row)
        places += here.tolist()
    return np.array(places, np.int64)
