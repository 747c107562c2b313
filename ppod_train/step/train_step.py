"""One optimizer step: read the batch, take the exact gradient, clip its norm, update."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.policy import Policy
from ppod_data.errors import NonFiniteError
from ppod_data.generation.cost import tensor_bytes
from ppod_data.support.tensor_memory import LiveBytes
from ppod_train.data.batches import (
    TrainingBatch,
    load_batch,
    timesteps_of_step,
    trajectories_of,
    units_of_step,
)
from ppod_train.data.training_data import TrainingData
from ppod_train.distributed import SINGLE_PROCESS, Workers
from ppod_train.objectives import OBJECTIVES
from ppod_train.objectives.clip import band_centre, band_regions
from ppod_train.objectives.targets import LossOptions
from ppod_train.policy.fsdp import whole
from ppod_train.policy.policy import update_average
from ppod_train.settings import TrainSettings
from ppod_train.step.bounded_pass import Regions, by_group_gradient, by_trajectory_gradient
from ppod_train.step.denoising import denoising_scores, forward_noise
from ppod_train.step.gradient import (
    Evaluate,
    Gradient,
    all_log_probs,
    one_pass_gradient,
    two_pass_gradient,
    unscale,
)
from ppod_train.step.groups import Group, evaluation_groups, group_size
from ppod_train.step.log_probs import batch_log_probs
from ppod_train.step.method import Method, backward_rows, gradient_method, graph_size
from ppod_train.step.metrics import StepMetrics, step_metrics
from ppod_train.step.step_weight import weighted

# An overflow of the backward pass divides its scale by so much. N dimensions share a weight, so that at the full scale
# the network's outputs get gradients of 1 to 100, of fp16's 65,504; four drops leave as little as no scale at all.
_SCALE_DROP = 16
_MAX_SCALE_DROPS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainState:
    """What an optimizer step works on."""

    data: TrainingData
    model: DiffusionModel
    """The pipeline whose denoiser is trained, at the data's image size."""
    policy: Policy
    """π: the trained network on the data's chain and prompts."""
    reference: Policy | None
    """π_ref with the network before training; None if neither a KL nor the objective needs it."""
    maker: Policy | None
    """The policy that made the data, for an objective that compares with its predictions."""
    parameters: Mapping[str, torch.nn.Parameter]
    average: Mapping[str, torch.Tensor]
    """The moving average of the trained weights by the same names; empty where the policy is the weights themselves."""
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    """The learning rate of an optimizer step, from 0."""
    settings: TrainSettings
    step_weights: NDArray[np.float64]
    """[steps of the chain], what the loss multiplies log-ratios by."""
    batch_size: int
    """Evaluations in one network call."""
    graph_bytes: int
    """Memory that the graph of one evaluation holds."""
    scorer: str
    """Name and revision of the reward that chooses the policy; "" without one."""
    start_fingerprint: str
    """Of the policy that training started from; the reference's own where it was the reference."""
    defaults: str = ""
    """What was taken for options that were not given, and why, in one line."""
    workers: Workers = SINGLE_PROCESS
    """The processes that share a step; the rest of this is the same in all of them."""


def train_step(state: TrainState, *, step: int, gradient_share: float, scale_drops: int = 0) -> StepMetrics:
    """Do optimizer step number `step` (from 0).

    Args:
        gradient_share: the share of evaluations with a gradient in the step before, 1 at the first; it decides between
            one pass and two.
        scale_drops: how often the scale of the backward pass was lowered before, because half precision overflowed.

    Raises:
        NonFiniteError: the loss or the gradient is NaN or infinite; the weights are left as they were.
    """
    start = time.perf_counter()
    settings, data = state.settings, state.data
    units = units_of_step(data, step=step, pairs_per_step=settings.pairs_per_step, seed=settings.seed)
    steps = timesteps_of_step(
        data, step=step, timesteps_per_update=settings.timesteps_per_update, seed=settings.seed
    )
    batch = weighted(load_batch(data, units, steps, state.policy.prompts), state.step_weights)
    if step + 1 < settings.num_train_steps:
        following = units_of_step(
            data, step=step + 1, pairs_per_step=settings.pairs_per_step, seed=settings.seed
        )
        data.reader.expect(trajectories_of(data, following)[0].tolist())
    options = settings.loss_options(timestep_scale=len(data.steps) / len(steps))
    groups = network_calls(state, batch)
    method = _method(state, batch, largest_group=group_size(groups), gradient_share=gradient_share)

    while True:
        state.optimizer.zero_grad(set_to_none=True)
        gradient = batch_gradient(
            state, batch, options, step=step, method=method, groups=groups, scale_drops=scale_drops
        )
        norm = _summed_norm(state, gradient.scale)
        if math.isfinite(gradient.loss) and math.isfinite(norm):
            break
        if not math.isfinite(gradient.loss) or scale_drops == _MAX_SCALE_DROPS:
            raise NonFiniteError(
                f"step {step + 1}: the loss is {gradient.loss} and the gradient's norm {norm}: lower --learning-rate "
                "or train in fp32; the last checkpoint is whole"
            )
        scale_drops += 1
    rate = state.learning_rate(step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    update_average(state.average, state.parameters, settings.ema_decay)
    return step_metrics(
        gradient,
        batch,
        options,
        step=step + 1,
        grad_norm=norm,
        learning_rate=rate,
        one_pass=method != "two-pass",
        scale_drops=scale_drops,
        seconds=time.perf_counter() - start,
    )


def _summed_norm(state: TrainState, scale: float) -> float:
    """Take the scale out, add up the gradients of all processes, and clip their norm; returns the norm before."""
    parameters = state.parameters.values()
    unscale(parameters, scale)
    # Where every step was clipped the gradient is missing: zero, as one pass would give.
    state.workers.sum_gradients(parameters)
    return float(whole(torch.nn.utils.clip_grad_norm_(parameters, state.settings.max_grad_norm)))


def batch_gradient(
    state: TrainState,
    batch: TrainingBatch,
    options: LossOptions,
    *,
    step: int,
    method: Method,
    groups: Sequence[Group],
    scale_drops: int = 0,
) -> Gradient:
    """Add this process's part of the objective's gradient over one batch, times its scale, to the parameters' `.grad`.

    Pass 2 needs no values, so that its calls may be smaller than the sampler's: they keep to `max_graph_gib`.

    Args:
        groups: the network calls of one pass by groups (`network_calls`).
    """
    settings = state.settings
    objective = OBJECTIVES[settings.objective]

    def loss(log_ratios: torch.Tensor) -> torch.Tensor:
        return objective.loss(log_ratios * batch.step_weights, batch.targets, options)

    evaluate, reference = _evaluated(state, batch, options, step=step)
    common: dict[str, Any] = {
        "chunk_size": state.batch_size,
        "largest_weight": batch.latents[0, 0].numel() / _SCALE_DROP**scale_drops,
        "workers": state.workers,
    }
    if method == "by-trajectory":
        return by_trajectory_gradient(
            evaluate,
            reference,
            loss,
            parameters=list(state.parameters.values()),
            regions=_regions(batch, options),
            step_weights=batch.step_weights.expand(reference.shape[1]),
            **common,
        )
    common["kl_weight"] = settings.kl_weight
    if method == "whole-graph":
        return one_pass_gradient(evaluate, reference, loss, **common)
    if method == "by-group":
        del common["chunk_size"]
        centre = band_centre(batch.targets, options) / batch.step_weights
        return by_group_gradient(evaluate, reference, loss, groups=groups, centre=centre, **common)
    size = backward_rows(settings, state.batch_size, state.graph_bytes)
    return two_pass_gradient(evaluate, reference, loss, backward_size=size, **common)


def _method(state: TrainState, batch: TrainingBatch, *, largest_group: int, gradient_share: float) -> Method:
    if state.workers.sharded:
        return "two-pass"
    rows, steps = batch.reference_log_probs.shape
    return gradient_method(
        state.settings,
        shape=(rows, steps),
        group_size=largest_group,
        batch_size=state.batch_size,
        graph_bytes=state.graph_bytes,
        trained_bytes=tensor_bytes(state.parameters.values()),
        gradient_share=gradient_share,
    )


def network_calls(state: TrainState, batch: TrainingBatch) -> list[Group]:
    """Return the network calls of one pass by groups."""
    return evaluation_groups(
        OBJECTIVES[state.settings.objective].couples,
        batch.reference_log_probs,
        torch.stack([batch.targets.chosen, batch.targets.rejected]),
        chunk_size=state.batch_size,
        graph_size=graph_size(state.settings, state.graph_bytes),
    )


def _regions(batch: TrainingBatch, options: LossOptions) -> Regions:
    """Return the function that gives the region of the clip band of each evaluation."""
    centre = band_centre(batch.targets, options)

    def call(log_ratios: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        weights = batch.step_weights.expand(centre.shape[1])[columns]
        return band_regions(log_ratios * weights, centre[rows, columns], options)

    return call


def _evaluated(
    state: TrainState, batch: TrainingBatch, options: LossOptions, *, step: int
) -> tuple[Evaluate, torch.Tensor]:
    """Return the function that evaluates the network for the objective, and the values to subtract, [U, T].

    These are the reference's, or 0 for scores that are relative to the policy that made the data.
    """
    settings, policy = state.settings, state.policy
    objective = OBJECTIVES[settings.objective]
    kl_to = state.reference if settings.kl_weight else None
    if objective.score is None:
        evaluate = batch_log_probs(policy, batch, kl_to=kl_to)
        return evaluate, batch.reference_log_probs
    noise = forward_noise(batch, step=step, seed=settings.seed)
    scores = partial(denoising_scores, batch=batch, score=objective.score, options=options, noise=noise)
    if objective.compares_with == "maker":
        return scores(policy, old=state.maker, kl_to=kl_to), torch.zeros_like(batch.reference_log_probs)
    assert state.reference is not None
    reference = all_log_probs(
        scores(state.reference),
        batch.reference_log_probs,
        chunk_size=state.batch_size,
        workers=state.workers,
    )
    return scores(policy), reference


def graph_bytes_per_evaluation(policy: Policy, data: TrainingData, denoiser: torch.nn.Module) -> int:
    """Return the bytes that the graph of one log-probability keeps alive, without the weights.

    The number depends on the network and its dtypes alone, so that the choices made by it are equal in every run.
    """
    batch = load_batch(data, data.units[:1], data.recorded_steps[:1], policy.prompts)
    index = torch.zeros(1, dtype=torch.int64, device=policy.device)
    evaluate = batch_log_probs(policy, batch)
    with LiveBytes(denoiser.parameters()) as live:
        values = evaluate(index, index)
        kept = int(live.now)
    del values  # its graph is what was counted
    return kept
