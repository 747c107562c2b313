"""Replay stored steps before training: does the trainer compute the log-probabilities that the sampler recorded?"""

from dataclasses import dataclass

import numpy as np
import torch

from ppod_data.errors import DriftError
from ppod_data.generate import Sampler
from ppod_train.batches import load_batch
from ppod_train.data import TrainingData
from ppod_train.gradient import all_log_probs
from ppod_train.log_probs import batch_log_probs
from ppod_train.workers import ALONE, Workers


@dataclass(frozen=True, kw_only=True)
class Drift:
    """|replayed − stored| log-probability of an untouched policy."""

    steps: tuple[int, ...]
    """The chain steps that were replayed."""
    median: tuple[float, ...]
    """For each step."""
    p99: tuple[float, ...]
    overall_p99: float
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
    places = np.linspace(0, len(data.units) - 1, count).astype(int)  # of every data set and of many prompts
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
        share_exact=float((error == 0).mean()),
    )


def check_drift(drift: Drift, log_ratio_clip: float) -> None:
    """Raise DriftError where the clip band could not tell training from rounding."""
    if not max(drift.p99) <= log_ratio_clip / 10:  # a NaN is refused as well
        raise DriftError(
            f"replayed log-probabilities differ from the stored ones by {max(drift.p99):.1e} (p99 of the worst "
            f"step), more than a tenth of the clip {log_ratio_clip:g}: recompute the reference's with "
            "`ppod-data log-probs` and name them by --reference-log-probs, train with --compute-dtype fp32, or "
            "widen --log-ratio-clip"
        )
