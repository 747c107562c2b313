"""From rewards to advantages: what each recorded trajectory, or each of its steps, is worth to a loss.

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
    """The rated trajectories of a training run, in their order."""

    rewards: FloatArray
    """[M]"""
    prompt_index: NDArray[np.int64]
    """[M]"""
    num_steps: int
    """T"""
    read_latents: Callable[[NDArray[np.int64]], torch.Tensor]
    """Rows of trajectories -> x_t of each of the T steps, fp32 [T, rows, C, H, W]."""
    temperature: float
    best_of: int


Advantages = Callable[[Rated], FloatArray]
"""Rated trajectories -> [M, T]."""


def standardised(rated: Rated) -> FloatArray:
    """(r − mean) / standard deviation within each prompt, within ± 5 (DDPO's per-prompt tracking): [M, T].

    Zero for a prompt whose rewards are all equal.
    """
    return _every_step(_z_scores(rated), rated.num_steps)


def reward_weights(rated: Rated) -> FloatArray:
    """exp(standardised reward / temperature), with a mean of 1 within each prompt: [M, T]."""
    weights = np.exp(_z_scores(rated) / rated.temperature)
    for rows in _prompts(rated):
        weights[rows] /= weights[rows].mean()
    return _every_step(weights, rated.num_steps)


def best_of_k(rated: Rated) -> FloatArray:
    """1 for the best of every `best_of` images of a prompt, in the order of the data, 0 for the others: [M, T]."""
    weights = np.zeros(len(rated.rewards))
    for rows in _prompts(rated):
        for group in np.array_split(rows, max(1, len(rows) // rated.best_of)):
            weights[group[np.argmax(rated.rewards[group])]] = 1.0
    return _every_step(weights, rated.num_steps)


def above_value_baseline(rated: Rated) -> FloatArray:
    """r − V(x_t, c) in units of the rewards' standard deviation, within ± 5 (DPOK's value baseline): [M, T].

    V is the prompt's mean and, at every step, a ridge regression on the latent, pooled to at most 8×8; each half of
    the data is predicted from the other half, and a ridge that predicts no better than the mean is dropped. DPOK trains
    a network for V as it goes; this one is a pure function of the data set, so that nothing has to be resumed.
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
        if rewards.std() > 0:
            scores[rows] = (rewards - rewards.mean()) / rewards.std()
    return np.clip(scores, -_LARGEST, _LARGEST)


def _prompts(rated: Rated) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(rated.prompt_index == prompt) for prompt in np.unique(rated.prompt_index)]


def _every_step(values: FloatArray, num_steps: int) -> FloatArray:
    return np.repeat(values[:, None], num_steps, axis=1)


def _features(rated: Rated) -> NDArray[np.float32]:
    """The pooled latents of every trajectory at every step: [T, M, F]."""
    parts = []
    for rows in np.array_split(np.arange(len(rated.rewards)), max(1, len(rated.rewards) // 64)):
        latents = rated.read_latents(rows)
        height, width = latents.shape[-2:]
        size = (min(height, _POOLED_SIDE), min(width, _POOLED_SIDE))
        pooled = torch.nn.functional.adaptive_avg_pool2d(latents.flatten(0, 1), size)
        parts.append(pooled.reshape(*latents.shape[:2], -1).numpy())
    return np.concatenate(parts, axis=1)


def _cross_fitted(features: NDArray[np.float32], targets: FloatArray) -> FloatArray:
    """Ridge predictions [M] of each half from the other one; zeros where no ridge beats zero."""
    folds = np.arange(len(targets)) % 2
    best, least = np.zeros(len(targets)), float((targets**2).sum())
    for ridge in _RIDGES:
        predicted = np.zeros(len(targets))
        for fold in (0, 1):
            fit, held = folds != fold, folds == fold
            x = features[fit].astype(np.float64)
            mean = x.mean(axis=0)
            x = x - mean
            weights = x.T @ np.linalg.solve(x @ x.T + ridge * np.eye(len(x)), targets[fit])
            predicted[held] = (features[held] - mean) @ weights
        if (error := float(((targets - predicted) ** 2).sum())) < least:
            best, least = predicted, error
    return best
