"""Weights of a chain's steps: how much of a log-ratio goes to the loss, from the schedule alone.

A change d (rms) of the guided prediction makes a step's log-ratio smaller by (k_t·d)²/2, and k_t differs between steps:
at the last but one of a Stable Diffusion chain it is eight times that of the others, so that this step has most of the
gradient and leaves the clip band first. With weights (k_med / k_t)², the edge of the band is the same d at every step.

Shapes: T steps of the chain.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ppod_data.diffusion.schedule import sensitivity, spec_schedule
from ppod_data.format.spec import GenerationSpec
from ppod_train.data.batches import TrainingBatch

_POWERS = {"none": 0, "k": 1, "k2": 2}


def chain_sensitivity(spec: GenerationSpec) -> NDArray[np.float64]:
    """k_t of every step of a data set's chain, [T]; 0 where a step is deterministic."""
    return np.array(sensitivity(spec_schedule(spec)))


def step_weights(spec: GenerationSpec, steps: Sequence[int], step_weight: str) -> NDArray[np.float64]:
    """w_t = (k_med / k_t)^p, [T], with p = 0, 1 or 2 for none, k and k2; 1 at steps that are not trained.

    Args:
        steps: those that are trained; k_med is their median.
    """
    k = chain_sensitivity(spec)
    weights = np.ones(len(k))
    chosen = [step for step in steps if k[step] > 0]
    if not chosen:  # an objective that reads x_0 alone may train on deterministic steps
        return weights
    weights[chosen] = (np.median(k[chosen]) / k[chosen]) ** _POWERS[step_weight]
    return weights


def weighted(batch: TrainingBatch, weights: NDArray[np.float64]) -> TrainingBatch:
    """Return the batch with the weights of its steps, and with the band's centre in units of the weighted log-ratio."""
    own = torch.from_numpy(weights).to(batch.step_index.device)[batch.step_index]
    targets = replace(batch.targets, anchors=batch.targets.anchors * own)
    return replace(batch, step_weights=own, targets=targets)
