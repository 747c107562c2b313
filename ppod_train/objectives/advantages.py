"""Advantages: functions from rewards to a weight for each recorded trajectory or each of its steps.

Shapes: M rated trajectories, T stored steps with a density, F features of a latent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_LARGEST = 5.0
_POOLED_SIDE = 8
_RIDGES = (1.0, 10.0, 100.0, 1000.0, 10000.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rated:
    """The rated trajectories of a training run, in order."""

    rewards: FloatArray
    """[M]"""
    prompt_index: NDArray[np.int64]
    """[M]"""
    num_steps: int
    """T"""
    read_latents: Callable[[NDArray[np.int64]], torch.Tensor]
    """Row numbers of trajectories -> x_t of each of the T steps, fp32 [T, rows, C, H, W]."""
    temperature: float
    best_of: int


Advantages = Callable[[Rated], FloatArray]
"""Function from rated trajectories to advantages [M, T]."""


def standardised(rated: Rated) -> FloatArray:
    """Standardise rewards within each prompt: (r − mean) / standard deviation, limited to ± 5.

    This is the per-prompt tracking of DDPO. Advantages are zero for a prompt whose rewards are all equal.

    Returns:
        [M, T], the same value at every step.
    """
    return _every_step(_z_scores(rated), rated.num_steps)


def reward_weights(rated: Rated) -> FloatArray:
    """Return exp(standardised reward / temperature) [M, T], scaled to a mean of 1 within each prompt."""
    weights = np.exp(_z_scores(rated) / rated.temperature)
    for rows in _prompts(rated):
        weights[rows] /= weights[rows].mean()
    return _every_step(weights, rated.num_steps)


def best_of_k(rated: Rated) -> FloatArray:
    """Return 1 for the best of every `best_of` images of a prompt and 0 for the rest: [M, T].

    Groups follow the order of the data.
    """
    weights = np.zeros(len(rated.rewards))
    for rows in _prompts(rated):
        for group in np.array_split(rows, max(1, len(rows) // rated.best_of)):
            weights[group[np.argmax(rated.rewards[group])]] = 1.0
    return _every_step(weights, rated.num_steps)


def above_value_baseline(rated: Rated) -> FloatArray:
    """Return r − V(x_t, c) in units of the rewards' standard deviation, limited to ± 5: [M, T].

    V is DPOK's value baseline: the prompt's mean plus, at every step, a ridge regression on the latent, pooled to at
    most 8×8. Each half of the data is predicted from the other half. A ridge that predicts no better than the mean is
    dropped. DPOK trains a network for V during training; this baseline is a pure function of the data set, so a resumed
    run needs no state for it.
    """
    z_scores = _z_scores(rated)
    values = np.zeros((len(z_scores), rated.num_steps))
    features = _features(rated)
    for step in range(rated.num_steps):
        values[:, step] = _cross_fitted(features[step], z_scores)
    return np.clip(z_scores[:, None] - values, -_LARGEST, _LARGEST)


def _z_scores(rated: Rated) -> FloatArray:
    scores = np.zeros(len(rated.rewards))
    for rows in _prompts(rated):
        rewards = rated.rewards[rows]
        # The mean of equal rewards is rounded, so their deviation may be a rounding error instead of 0
        spread = rewards.std() if np.ptp(rewards) > 0 else 0.0
        if spread > 0:
            scores[rows] = (rewards - rewards.mean()) / spread
    return np.clip(scores, -_LARGEST, _LARGEST)


def _prompts(rated: Rated) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(rated.prompt_index == prompt) for prompt in np.unique(rated.prompt_index)]


def _every_step(values: FloatArray, num_steps: int) -> FloatArray:
    return np.repeat(values[:, None], num_steps, axis=1)


def _features(rated: Rated) -> NDArray[np.float32]:
    """Pool the latents of every trajectory at every step: [T, M, F]."""
    parts = []
    for rows in np.array_split(np.arange(len(rated.rewards)), max(1, len(rated.rewards) // 64)):
        latents = rated.read_latents(rows)
        height, width = latents.shape[-2:]
        size = (min(height, _POOLED_SIDE), min(width, _POOLED_SIDE))
        pooled = torch.nn.functional.adaptive_avg_pool2d(latents.flatten(0, 1), size)
        parts.append(pooled.reshape(*latents.shape[:2], -1).numpy())
    return np.concatenate(parts, axis=1)


def _cross_fitted(features: NDArray[np.float32], targets: FloatArray) -> FloatArray:
    """Predict each half from the other by ridge regression: [M]; zeros if no ridge beats zero."""
    folds = np.arange(len(targets)) % 2
    predictions, lowest_error = np.zeros(len(targets)), float((targets**2).sum())
    for ridge in _RIDGES:
        predicted = np.zeros(len(targets))
        for fold in (0, 1):
            fit, held = folds != fold, folds == fold
            x = features[fit].astype(np.float64)
            mean = x.mean(axis=0)
            x = x - mean
            weights = x.T @ np.linalg.solve(x @ x.T + ridge * np.eye(len(x)), targets[fit])
            predicted[held] = (features[held] - mean) @ weights
        if (error := float(((targets - predicted) ** 2).sum())) < lowest_error:
            predictions, lowest_error = predicted, error
    return predictions
