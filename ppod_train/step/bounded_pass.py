"""The exact gradient from one pass over the network, with the graph of one call at a time.

Shapes: U trajectories, T timesteps, E evaluations (trajectory, timestep) of one network call.

The gradient Σ_ut g_ut·dℓ_ut/dθ (`ppod_train.step.gradient`) needs the numbers g_ut = ∂L/∂ℓ_ut. What g_ut depends on
decides what can be back-propagated before the other evaluations are known:

    by group       a group of calls holds all that its g_ut depend on (`ppod_train.step.groups`). Each group is
                   back-propagated with its final weights.
    by trajectory  Eq. 10 where the trajectories that pairs connect are too many for one graph: g_ut = k_t·w_ur, where
                   k_t is the step weight, known in advance, and w_ur is one number for each trajectory and region r of
                   the clip band (inside, above, below). The region follows from ℓ_ut at once; w_ur follows when every
                   pair of u is complete. So Σ_t k_t·dℓ_ut/dθ is summed into one buffer for each trajectory and region,
                   and the buffers are added up with the weights w_ur at the end.

A buffer has the size of the trained weights: 6 MB for a LoRA of rank 8 on Stable Diffusion 1.5.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from ppod_train.distributed import SINGLE_PROCESS, Workers
from ppod_train.step.gradient import (
    Evaluate,
    Gradient,
    Loss,
    StepValues,
    gathered,
    loss_and_weights,
    power_of_two,
    result,
)
from ppod_train.step.groups import Group, Places

# log-ratios [E], rows [E], columns [E] -> region of each: 0, 1, 2, or -1 where no loss has a gradient
Regions = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class _Buffer(NamedTuple):
    """Σ_t k_t·dℓ_ut/dθ over one region of one trajectory, and the places that it sums over."""

    gradients: list[torch.Tensor | None]
    places: list[Places]


def by_group_gradient(
    evaluate: Evaluate,
    reference: torch.Tensor,
    loss: Loss,
    *,
    groups: Sequence[Group],
    centre: torch.Tensor | None = None,
    kl_weight: float = 0.0,
    largest_weight: float | None = None,
    workers: Workers = SINGLE_PROCESS,
) -> Gradient:
    """Add scale·d(L + kl_weight·mean KL)/dθ to the parameters' gradients, with the graph of one group at a time.

    Args:
        reference: log π_ref, fp64 [U, T].
        groups: network calls; the g_ut of a group depend on the log-ratios of that group alone.
        centre: log-ratios in the middle of the clip band, [U, T]; None for 0.
        largest_weight: the size, within a factor of two, that the scale gives the largest g_ut at `centre`; None for
            no scale.
        workers: add the part of this process's groups; the sum over all processes is the gradient.
    """
    _, at_centre = loss_and_weights(loss, torch.zeros_like(reference) if centre is None else centre)
    scale = power_of_two(at_centre, kl_weight, largest_weight)
    own = []
    for group, counts in workers.strided(groups):
        seen = torch.zeros_like(reference)
        values = [(rows, columns, evaluate(rows, columns)) for rows, columns in group]
        for rows, columns, value in values:
            seen[rows, columns] = value.log_prob.detach() - reference[rows, columns]
        _, weights = loss_and_weights(loss, seen)
        total = torch.zeros((), dtype=torch.float64, device=reference.device)
        for rows, columns, value in values:
            total = total + torch.sum(scale * weights[rows, columns] * value.log_prob)
            if value.kl is not None:
                total = total + scale * kl_weight / reference.numel() * value.kl.sum()
        torch.autograd.backward(total if counts else 0.0 * total)
        own += [(rows, columns, value.detached()) for rows, columns, value in values if counts]
    policy, kl = gathered(own, reference, bool(kl_weight), workers)
    final, weights = loss_and_weights(loss, policy - reference)
    return result(final, policy - reference, weights, kl, kl_weight, 1.0, scale)


def by_trajectory_gradient(
    evaluate: Evaluate,
    reference: torch.Tensor,
    loss: Loss,
    *,
    chunk_size: int,
    parameters: Sequence[torch.nn.Parameter],
    regions: Regions,
    step_weights: torch.Tensor,
    largest_weight: float | None = None,
    workers: Workers = SINGLE_PROCESS,
) -> Gradient:
    """Add scale·dL/dθ to the gradients of `parameters`, for a loss whose g_ut is k_t times a number of u's region.

    Args:
        reference: log π_ref, fp64 [U, T].
        chunk_size: the most evaluations of one network call; all are steps of one trajectory.
        regions: the region of each evaluation.
        step_weights: k_t, fp64 [T].
        largest_weight: the size, within a factor of two, that the scale gives the largest k_t; None for no scale.
        workers: add the part of this process's trajectories; the sum over all processes is the gradient.
    """
    scale = power_of_two(step_weights, 0.0, largest_weight)
    steps = torch.arange(reference.shape[1], device=reference.device)
    own: list[tuple[torch.Tensor, torch.Tensor, StepValues]] = []
    buffers: dict[tuple[int, int], _Buffer] = {}
    backward = torch.zeros((), dtype=torch.float64, device=reference.device)
    for row, _ in workers.strided(range(len(reference))):
        for columns in torch.split(steps, chunk_size):
            rows = torch.full_like(columns, row)
            values = evaluate(rows, columns)
            own.append((rows, columns, values.detached()))
            region = regions(values.log_prob.detach() - reference[rows, columns], rows, columns)
            present = [number for number in range(3) if bool((region == number).any())]
            backward += len(columns) * len(present)
            for number in present:
                inside = region == number
                total = torch.sum(scale * step_weights[columns[inside]] * values.log_prob[inside])
                found = torch.autograd.grad(
                    total, parameters, retain_graph=number != present[-1], allow_unused=True
                )
                kept = buffers.setdefault((row, number), _Buffer([None] * len(parameters), []))
                _add(kept.gradients, found)
                kept.places.append((rows[inside], columns[inside]))
    policy, _ = gathered(own, reference, False, workers)
    value, weights = loss_and_weights(loss, policy - reference)
    for kept in buffers.values():
        rows, columns = (torch.cat(side) for side in zip(*kept.places, strict=True))
        _add_scaled(parameters, kept.gradients, weights[rows, columns].sum() / step_weights[columns].sum())
    share = float(workers.sum(backward)) / reference.numel()
    return result(value, policy - reference, weights, None, 0.0, share, scale)


def _add(sums: list[torch.Tensor | None], found: Sequence[torch.Tensor | None]) -> None:
    for index, gradient in enumerate(found):
        if gradient is not None:
            known = sums[index]
            sums[index] = gradient if known is None else known.add_(gradient)


def _add_scaled(
    parameters: Sequence[torch.nn.Parameter], gradients: Sequence[torch.Tensor | None], weight: torch.Tensor
) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            scaled = gradient.mul_(weight.to(gradient.dtype))
            parameter.grad = scaled if parameter.grad is None else parameter.grad.add_(scaled)
