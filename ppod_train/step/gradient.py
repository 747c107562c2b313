"""The exact gradient of a loss that couples all timesteps, with the memory of one chunk of network evaluations.

Shapes: U trajectories, T timesteps, E evaluations (trajectory, timestep) of one network call.

Eq. 10's sigmoid stands outside the sum over timesteps, so the loss is no sum of per-step losses and cannot be
back-propagated step by step. But it is a function of the U·T numbers ℓ_ut = log π − log π_ref alone:

    dL/dθ = Σ_ut (∂L/∂ℓ_ut) · dℓ_ut/dθ

Pass 1 computes every ℓ_ut without gradients, then the loss and the numbers g_ut = ∂L/∂ℓ_ut, clip included.
Pass 2 back-propagates Σ g_ut·ℓ_ut chunk by chunk, with the stored numbers and without clipping again; where g_ut is
exactly 0 (outside the clip band) it skips the evaluation altogether. The network sees each (trajectory, timestep)
once a pass, however many pairs the trajectory is in. A KL term is a sum over steps already, and joins pass 2 with its
constant weight.

In half precision the numbers g_ut·dℓ_ut/dε, a few parts in a billion, are below what fp16 can hold, and gradients would
round to 0. So the backward pass takes the weights times one power of two, chosen from their largest. A power of two
is exact: in fp32 and fp64 the gradient has the same bits with it and without.

Several processes share the chunks, whole and with the boundaries that one process gives them; between the passes they
exchange the U·T numbers, so that each has the same loss and the same g_ut.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ppod_train.distributed import SINGLE_PROCESS, Workers


class StepValues(NamedTuple):
    """What the network says of some steps; differentiable."""

    log_prob: torch.Tensor
    """log π of each step, fp64 [E]."""
    kl: torch.Tensor | None = None
    """KL of the policy to a fixed one at each step, fp64 [E]."""

    def detached(self) -> "StepValues":
        """Return the values without their graph."""
        return StepValues(self.log_prob.detach(), None if self.kl is None else self.kl.detach())


# (rows [E], columns [E]) of the [U, T] matrix -> values of those steps
Evaluate = Callable[[torch.Tensor, torch.Tensor], StepValues]
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
    kl: float | None
    """The mean KL of a step to the fixed policy, where one was asked for."""
    backward_share: float
    """The share of the U·T evaluations that were back-propagated."""
    scale: float = 1.0
    """What `.grad` is multiplied by, a power of two: `unscale` takes it out."""


def two_pass_gradient(
    evaluate: Evaluate,
    reference: torch.Tensor,
    loss: Loss,
    *,
    chunk_size: int,
    backward_size: int | None = None,
    kl_weight: float = 0.0,
    largest_weight: float | None = None,
    workers: Workers = SINGLE_PROCESS,
) -> Gradient:
    """Add scale·d(L + kl_weight·mean KL)/dθ to the parameters' gradients, with the graph of one chunk at a time.

    Args:
        reference: log π_ref, fp64 [U, T].
        chunk_size: evaluations of one network call in pass 1, whose values the loss is computed from.
        backward_size: the same in pass 2, which keeps a graph; None for `chunk_size`.
        largest_weight: the size, within a factor of two, that the scale gives the largest g_ut; None for no scale.
        workers: add the part of this process's chunks; the sum over all processes is the gradient.
    """
    everything = _chunks(torch.ones_like(reference, dtype=torch.bool), chunk_size)
    with torch.no_grad():
        own = _evaluated(evaluate, everything, workers)
        policy, kl = gathered(own, reference, bool(kl_weight), workers)
    log_ratios = policy - reference
    value, weights = loss_and_weights(loss, log_ratios)
    scale = power_of_two(weights, kl_weight, largest_weight)
    needed = weights != 0 if kl is None else torch.ones_like(weights, dtype=torch.bool)
    for (rows, columns), counts in workers.strided(_chunks(needed, backward_size or chunk_size)):
        values = evaluate(rows, columns)
        total = torch.sum(scale * weights[rows, columns] * values.log_prob)
        if values.kl is not None:
            total = total + scale * kl_weight / reference.numel() * values.kl.sum()
        torch.autograd.backward(total if counts else 0.0 * total)
    return result(value, log_ratios, weights, kl, kl_weight, float(needed.double().mean()), scale)


def one_pass_gradient(
    evaluate: Evaluate,
    reference: torch.Tensor,
    loss: Loss,
    *,
    chunk_size: int,
    kl_weight: float = 0.0,
    largest_weight: float | None = None,
    workers: Workers = SINGLE_PROCESS,
) -> Gradient:
    """Return the same gradient from one graph over all evaluations, without a second forward pass."""
    everything = _chunks(torch.ones_like(reference, dtype=torch.bool), chunk_size)
    own = _evaluated(evaluate, everything, workers)
    policy, kl = gathered(own, reference, bool(kl_weight), workers)
    log_ratios = policy - reference
    value, weights = loss_and_weights(loss, log_ratios)
    scale = power_of_two(weights, kl_weight, largest_weight)
    totals = [torch.sum(scale * weights[rows, columns] * values.log_prob) for rows, columns, values in own]
    kl_scale = scale * kl_weight / reference.numel()
    totals += [kl_scale * values.kl.sum() for *_, values in own if values.kl is not None]
    if totals:
        torch.autograd.backward(torch.stack(totals).sum())
    return result(value, log_ratios, weights, kl, kl_weight, 1.0, scale)


def unscale(parameters: Iterable[torch.nn.Parameter], scale: float) -> None:
    """Divide the gradients by the power of two that a backward pass multiplied them by."""
    if scale == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(1 / scale)


def all_log_probs(
    evaluate: Evaluate, like: torch.Tensor, *, chunk_size: int, workers: Workers = SINGLE_PROCESS
) -> torch.Tensor:
    """Return log π of every trajectory and timestep, fp64 [U, T], evaluated by timestep in chunks, without a graph.

    Args:
        like: of the shape [U, T] and on the device.
    """
    everything = _chunks(torch.ones_like(like, dtype=torch.bool), chunk_size)
    with torch.no_grad():
        own = _evaluated(evaluate, everything, workers)
        return gathered(own, like, False, workers)[0]


def _evaluated(
    evaluate: Evaluate, chunks: list[tuple[torch.Tensor, torch.Tensor]], workers: Workers
) -> list[tuple[torch.Tensor, torch.Tensor, StepValues]]:
    """Return the chunks (rows, columns) of this process with their values."""
    found = [(*places, evaluate(*places), counts) for places, counts in workers.strided(chunks)]
    return [(rows, columns, values) for rows, columns, values, counts in found if counts]


def gathered(
    own: list[tuple[torch.Tensor, torch.Tensor, StepValues]],
    like: torch.Tensor,
    with_kl: bool,
    workers: Workers,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return log π and the KL of every evaluation, fp64 [U, T], detached, from the values of each process's own."""
    found = torch.zeros(1 + with_kl, *like.shape, dtype=torch.float64, device=like.device)
    for rows, columns, values in own:
        found[0, rows, columns] = values.log_prob.detach()
        if with_kl:
            assert values.kl is not None
            found[1, rows, columns] = values.kl.detach()
    workers.sum(found)
    return found[0], found[1] if with_kl else None


def _chunks(mask: torch.Tensor, chunk_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the (row, column) indices where `mask` [U, T] is true, by timestep, in chunks."""
    columns, rows = mask.T.nonzero(as_tuple=True)
    starts = range(0, len(rows), chunk_size)
    return [(rows[i : i + chunk_size], columns[i : i + chunk_size]) for i in starts]


def loss_and_weights(loss: Loss, log_ratios: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return the loss and g_ut = ∂L/∂ℓ_ut, [U, T]."""
    leaf = log_ratios.detach().requires_grad_()
    value = loss(leaf)
    (weights,) = torch.autograd.grad(value, leaf)
    return float(value.detach()), weights


def power_of_two(weights: torch.Tensor, kl_weight: float, largest_weight: float | None) -> float:
    """Return the power of two that brings the largest number of a backward pass to `largest_weight` or just below."""
    largest = max(float(weights.abs().max()), kl_weight / weights.numel())
    if largest_weight is None or not 0 < largest < math.inf:  # a NaN is reported by the caller
        return 1.0
    return float(2.0 ** math.floor(math.log2(largest_weight / largest)))


def result(
    value: float,
    log_ratios: torch.Tensor,
    weights: torch.Tensor,
    kl: torch.Tensor | None,
    kl_weight: float,
    share: float,
    scale: float,
) -> Gradient:
    """Assemble what a gradient computation saw."""
    mean_kl = None if kl is None else float(kl.detach().mean())
    return Gradient(
        loss=value + kl_weight * (mean_kl or 0.0),
        log_ratios=log_ratios,
        weights=weights,
        kl=mean_kl,
        backward_share=share,
        scale=scale,
    )
