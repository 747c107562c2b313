"""Predictions from noised final latents: the inputs of objectives that need x_0 alone, and no recorded chain.

Shapes: E evaluations of one network call, C H W latent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ppod_train.objectives.targets import LossOptions


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoised:
    """Errors of the network's predictions of the forward process's target: the noise, v, x_0 or the velocity."""

    error: torch.Tensor
    """Prediction of the policy minus the target, [E, C, H, W]."""
    old_error: torch.Tensor | None
    """The same of the policy that made the data, without a graph; None unless the objective compares with it."""
    scale: torch.Tensor
    """Error of the predicted x_0 in units of `error`, [E]."""
    advantages: torch.Tensor
    """[E]; 0 for a loss of pairs."""


Score = Callable[[Denoised, LossOptions], torch.Tensor]
"""Function from predictions to the value of each evaluation [E], fp64, which takes the place of a log-probability."""


def mean_square(error: torch.Tensor) -> torch.Tensor:
    """Return the mean square of each evaluation's error, fp64 [E]."""
    return (error * error).flatten(1).double().mean(dim=1)
