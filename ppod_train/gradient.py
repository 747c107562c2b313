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


def two_pass_gradient(log_probs: LogProbs, reference: torch.Tensor, loss: Loss, *, chunk_size: int) -> Gradient:
    """Add dL/dθ to the parameters' gradients, holding the graph of at most `chunk_size` evaluations.

    Args:
        reference: log π_ref, fp64 [U, T].
    """
    chunks = _chunks(torch.ones_like(reference, dtype=torch.bool), chunk_size)
    with torch.no_grad():
        policy = torch.cat([log_probs(rows, columns) for rows, columns in chunks])
    log_ratios = _to_matrix(policy, reference) - reference
    value, weights = _loss_and_weights(loss, log_ratios)
    for rows, columns in _chunks(weights != 0, chunk_size):
        torch.sum(weights[rows, columns] * log_probs(rows, columns)).backward()  # type: ignore[no-untyped-call]
    return Gradient(
        loss=value,
        log_ratios=log_ratios,
        weights=weights,
        backward_share=float((weights != 0).double().mean()),
    )


def one_pass_gradient(log_probs: LogProbs, reference: torch.Tensor, loss: Loss, *, chunk_size: int) -> Gradient:
    """The same gradient from one graph over all evaluations: no second forward pass, where memory allows it."""
    chunks = _chunks(torch.ones_like(reference, dtype=torch.bool), chunk_size)
    policy = torch.cat([log_probs(rows, columns) for rows, columns in chunks])
    log_ratios = _to_matrix(policy.detach(), reference) - reference
    value, weights = _loss_and_weights(loss, log_ratios)
    torch.sum(weights.T.reshape(-1) * policy).backward()  # type: ignore[no-untyped-call]
    return Gradient(loss=value, log_ratios=log_ratios, weights=weights, backward_share=1.0)


def _chunks(mask: torch.Tensor, chunk_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The (row, column) indices where `mask` [U, T] is true, timestep by timestep, in chunks."""
    columns, rows = mask.T.nonzero(as_tuple=True)
    return list(zip(rows.split(chunk_size), columns.split(chunk_size), strict=True))


def _to_matrix(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[U·T] in the order of `_chunks` -> [U, T]."""
    return values.view(like.shape[1], like.shape[0]).T.contiguous()


def _loss_and_weights(loss: Loss, log_ratios: torch.Tensor) -> tuple[float, torch.Tensor]:
    leaf = log_ratios.detach().requires_grad_()
    value = loss(leaf)
    (weights,) = torch.autograd.grad(value, leaf)
    return float(value.detach()), weights
