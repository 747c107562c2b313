"""One optimizer step: read the batch, take the exact gradient, clip its norm, update."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ppod_data.errors import NonFiniteError
from ppod_data.generate import Sampler
from ppod_train.batches import PreferenceBatch, PreferenceData, load_batch, pairs_of_step, timesteps_of_step
from ppod_train.gradient import Gradient, one_pass_gradient, two_pass_gradient
from ppod_train.log_probs import batch_log_probs
from ppod_train.metrics import StepMetrics, step_metrics
from ppod_train.objectives import OBJECTIVES
from ppod_train.settings import TrainSettings

# A backward pass costs about twice a forward: below this share of steps in the band, a second forward pass over those
# alone is cheaper than one backward pass over all.
_ONE_PASS_SHARE = 2 / 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Trainee:
    """What an optimizer step works on."""

    data: PreferenceData
    sampler: Sampler
    parameters: Mapping[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    settings: TrainSettings
    batch_size: int
    """Evaluations in one network call."""
    graph_bytes: int
    """Memory that the graph of one evaluation holds."""
    scorer: str
    """Name and revision of the reward that chooses the policy; "" without one."""


def train_step(trainee: Trainee, *, step: int, in_band_share: float) -> StepMetrics:
    """Do optimizer step number `step` (from 0).

    Args:
        in_band_share: of the step before, 1 at the first; it decides between one pass and two.

    Raises:
        NonFiniteError: the loss or the gradient is NaN or infinite; the weights are left as they were.
    """
    start = time.perf_counter()
    settings, data = trainee.settings, trainee.data
    pairs = pairs_of_step(data, step=step, pairs_per_step=settings.pairs_per_step, seed=settings.seed)
    steps = timesteps_of_step(
        data, step=step, timesteps_per_update=settings.timesteps_per_update, seed=settings.seed
    )
    batch = load_batch(data, pairs, steps, trainee.sampler.model.device)
    scale = len(data.steps) / len(steps)
    one_pass = use_one_pass(
        trainee, evaluations=batch.reference_log_probs.numel(), in_band_share=in_band_share
    )

    trainee.optimizer.zero_grad(set_to_none=True)
    gradient = batch_gradient(trainee, batch, timestep_scale=scale, one_pass=one_pass)
    for parameter in trainee.parameters.values():
        if parameter.grad is None:  # every step was clipped: a zero gradient, as one pass would give
            parameter.grad = torch.zeros_like(parameter)
    norm = float(torch.nn.utils.clip_grad_norm_(trainee.parameters.values(), settings.max_grad_norm))
    if not (math.isfinite(gradient.loss) and math.isfinite(norm)):
        raise NonFiniteError(
            f"step {step + 1}: the loss is {gradient.loss} and the gradient's norm {norm}: lower --learning-rate or "
            "train in fp32; the last checkpoint is whole"
        )
    trainee.optimizer.step()
    return step_metrics(
        gradient,
        batch,
        step=step + 1,
        dpo_beta=settings.dpo_beta,
        log_ratio_clip=settings.log_ratio_clip,
        timestep_scale=scale,
        grad_norm=norm,
        one_pass=one_pass,
        seconds=time.perf_counter() - start,
    )


def batch_gradient(
    trainee: Trainee, batch: PreferenceBatch, *, timestep_scale: float, one_pass: bool
) -> Gradient:
    """Add the gradient of the objective over one batch to the parameters' `.grad`."""
    settings = trainee.settings
    loss = partial(
        OBJECTIVES[settings.objective],
        chosen=batch.chosen,
        rejected=batch.rejected,
        labels=batch.labels,
        dpo_beta=settings.dpo_beta,
        log_ratio_clip=settings.log_ratio_clip,
        timestep_scale=timestep_scale,
    )
    log_probs = batch_log_probs(trainee.data.spec, trainee.sampler, batch)
    take = one_pass_gradient if one_pass else two_pass_gradient
    return take(log_probs, batch.reference_log_probs, loss, chunk_size=trainee.batch_size)


def use_one_pass(trainee: Trainee, *, evaluations: int, in_band_share: float) -> bool:
    """Whether to keep the whole graph: as the settings say, or by what is cheaper where it fits."""
    if trainee.settings.gradient != "auto":
        return trainee.settings.gradient == "one-pass"
    fits = evaluations * trainee.graph_bytes <= trainee.settings.max_graph_gib * 2**30
    return fits and in_band_share >= _ONE_PASS_SHARE


def graph_bytes_per_evaluation(sampler: Sampler, data: PreferenceData) -> int:
    """The bytes that autograd saves for one log-probability, weights not counted.

    A property of the network and its dtypes, so that the choice that hangs on it is the same on every run.
    """
    batch = load_batch(data, np.arange(1), data.steps[:1], sampler.model.device)
    weights = {parameter.data_ptr() for parameter in sampler.model.pipeline.unet.parameters()}
    saved: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    index = torch.zeros(1, dtype=torch.int64, device=sampler.model.device)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        batch_log_probs(data.spec, sampler, batch)(index, index)
    return sum(saved.values())
