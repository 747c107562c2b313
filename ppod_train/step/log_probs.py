"""What the policy's network says of a batch's recorded steps, in the trainer's numerics.

Shapes: E evaluations, U trajectories, T trained steps, C H W latent.
"""

from collections.abc import Callable

import numpy as np
import torch

from ppod_data.diffusion.condition import take
from ppod_data.diffusion.gaussian import kl_divergence, log_prob
from ppod_data.diffusion.guidance import Network
from ppod_data.diffusion.replay import replay_mean
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.sampler import Sampler
from ppod_data.support.noise import generator
from ppod_train.data.batches import TrainingBatch
from ppod_train.step.gradient import Evaluate, StepValues

# (network, rows [E], columns [E]) -> means [E, C, H, W]
Means = Callable[[Network, torch.Tensor, torch.Tensor], torch.Tensor]


def batch_log_probs(
    spec: GenerationSpec, sampler: Sampler, batch: TrainingBatch, *, kl_to: Network | None = None
) -> Evaluate:
    """log π(x_{t-1} | x_t, c) of (trajectory, trained step) places of a batch, as a differentiable function.

    The function takes rows [E] (trajectories) and columns [E] (trained steps) and returns fp64 [E].

    Args:
        kl_to: a fixed network; the function then also returns KL(π ‖ its policy) of each step.
    """
    mean_of = batch_means(spec, sampler, batch)

    def call(rows: torch.Tensor, columns: torch.Tensor) -> StepValues:
        step_index = batch.step_index[columns]
        fixed = None
        if kl_to is not None:
            with torch.no_grad():
                fixed = mean_of(kl_to, rows, columns)
        mean = mean_of(sampler.network, rows, columns)
        next_latents = batch.latents[batch.following[columns], rows]
        return StepValues(
            log_prob(sampler.schedule, step_index, mean, next_latents),
            None if fixed is None else kl_divergence(sampler.schedule, step_index, mean, fixed),
        )

    return call


def batch_means(spec: GenerationSpec, sampler: Sampler, batch: TrainingBatch) -> Means:
    """The mean of x_{t-1} at (trajectory, trained step) places of a batch under a network, [E, C, H, W]."""

    conditions = sampler.conditioning.of(batch.prompt_index)

    def call(network: Network, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return replay_mean(
            network,
            sampler.schedule,
            latents=batch.latents[batch.current[columns], rows],
            step_index=batch.step_index[columns],
            condition=take(conditions, rows),
            negative=sampler.conditioning.negative,
            guidance_scale=spec.guidance_scale,
            guidance_mode=spec.guidance_mode,
        )

    return call


def denoising_scores(
    sampler: Sampler, network: Network, batch: TrainingBatch, *, noise: torch.Tensor
) -> Evaluate:
    """−½·(mean square error of the network's prediction) for noised final latents, in place of a log-probability.

    Without guidance, as in the training of a diffusion model (Diffusion-DPO, Wallace et al. 2024).

    Args:
        noise: [T, C, H, W]: one draw a timestep, shared by all trajectories, so by both images of every pair.
    """
    conditions = sampler.conditioning.of(batch.prompt_index)

    def call(rows: torch.Tensor, columns: torch.Tensor) -> StepValues:
        step_index = batch.step_index[columns]
        final, drawn = batch.latents[-1, rows], noise[columns]
        prediction = network(
            sampler.schedule.noised(step_index, final, drawn),
            sampler.schedule.timesteps[step_index],
            take(conditions, rows),
        )
        target = sampler.schedule.target(step_index, final, drawn)
        error = prediction.to(torch.promote_types(prediction.dtype, target.dtype)) - target
        return StepValues(-0.5 * (error * error).flatten(1).double().mean(dim=1))

    return call


def forward_noise(batch: TrainingBatch, *, step: int, seed: int) -> torch.Tensor:
    """The forward process's noise of optimizer step `step`: fp32 [T, C, H, W]."""
    shape = (len(batch.step_index), *batch.latents.shape[2:])
    drawn = generator(seed, "forward-noise", step).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(drawn).to(batch.latents.device)
