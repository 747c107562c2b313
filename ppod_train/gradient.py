"""The exact gradient of a loss that couples all timesteps, with the memory of one chunk of network evaluations.

Shapes: U trajectories, T timesteps, E evaluations (trajectory, timestep) of one network call.

Eq. 10's sigmoid stands outside the sum over timesteps, so the loss is no sum of per-step losses and cannot be
back-propagated step by step. But it is a function of the U·T numbers ℓ_ut = log π − log π_ref alone:

    dL/dθ = Σ_ut (∂L/∂ℓ_ut) · dℓ_ut/dθ

Pass 1 computes every ℓ_ut without gradients, then the loss and the numbers g_ut = ∂L/∂ℓ_ut, clip included.
Pass 2 back-propagates Σ g_ut·ℓ_ut chunk by chunk, with the stored numbers and without clipping again; where g_ut is
exactly 0 (outside the clip band) it skips the evaluation altogether. The network sees each (trajectory, timestep)
once a pass, however many pairs the trajectory is in.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

# (rows [E], columns [E]) of the [U, T] matrix -> log π of those steps, fp64 [E], differentiable
LogProbs = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# log-ratios [U, T] -> scalar loss
Loss = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Gradient:
    """What a step's gradient computation saw. The gradient itself is in the parameters' `.grad`."""

    loss: float
    log_ratios: torch.Tensor
    """log π − log π_ref, fp64 [U, T]."""
    weights: torch.Tensor
    """g_ut = ∂L/∂ℓ_ut, fp64 [U, T]; exactly 0 where the clip cuts."""
    backward_share: float
    """The share of the U·T evaluations that were back-propagated."""


def two_pass_gradient(
    log_probs: LogProbs, reference: torch.Tensor, loss: Loss, *, chunk_size: int
) -> Gradient:
    """Add dL/dθ to the parameters' gradients, holding the graph of at most `chunk_size` evaluations.

    Args:
        reference: log π_ref, fp64 [U, T].
    """
    with torch.no_grad():
        log_ratios = all_log_probs(log_probs, reference.shape, chunk_size=chunk_size) - reference
    value, weights = _loss_and_weights(loss, log_ratios)
    for rows, columns in _chunks(weights != 0, chunk_size):
        torch.autograd.backward(torch.sum(weights[rows, columns] * log_probs(rows, columns)))
    return Gradient(
        loss=value,
        log_ratios=log_ratios,
        weights=weights,
        backward_share=float((weights != 0).double().mean()),
    )


def one_pass_gradient(
    log_probs: LogProbs, reference: torch.Tensor, loss: Loss, *, chunk_size: int
) -> Gradient:
    """The same gradient from one graph over all evaluations: no second forward pass, where memory allows it."""
    policy = all_log_probs(log_probs, reference.shape, chunk_size=chunk_size)
    log_ratios = policy.detach() - reference
    value, weights = _loss_and_weights(loss, log_ratios)
    torch.autograd.backward(torch.sum(weights * policy))
    return Gradient(loss=value, log_ratios=log_ratios, weights=weights, backward_share=1.0)


def all_log_probs(log_probs: LogProbs, shape: torch.Size, *, chunk_size: int) -> torch.Tensor:
    """log π of every trajectory and timestep, fp64 [U, T], evaluated timestep by timestep in chunks."""
    chunks = _chunks(torch.ones(shape, dtype=torch.bool), chunk_size)
    return torch.cat([log_probs(rows, columns) for rows, columns in chunks]).view(shape[1], shape[0]).T


def _chunks(mask: torch.Tensor, chunk_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The (row, column) indices where `mask` [U, T] is true, timestep by timestep, in chunks; none where none is."""
    columns, rows = mask.T.nonzero(as_tuple=True)
    starts = range(0, len(rows), chunk_size)
    return [(rows[i : i + chunk_size], columns[i : i + chunk_size]) for i in starts]


def _loss_and_weights(loss: Loss, log_ratios: torch.Tensor) -> tuple[float, torch.Tensor]:
    leaf = log_ratios.detach().requires_grad_()
    value = loss(leaf)
    (weights,) = torch.autograd.grad(value, leaf)
    return float(value.detach()), weights
