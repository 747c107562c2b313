"""Predictions from noised final latents, in place of the log-probabilities of a recorded chain.

Predictions are without guidance, as in the training of a diffusion model.

Shapes: E evaluations, U trajectories, T trained timesteps, C H W latent.
"""

import numpy as np
import torch

from ppod_data.diffusion.condition import take
from ppod_data.diffusion.policy import Policy
from ppod_data.support.noise import generator
from ppod_train.data.batches import TrainingBatch
from ppod_train.objectives.denoised import Denoised, Score, mean_square
from ppod_train.objectives.targets import LossOptions
from ppod_train.step.gradient import Evaluate, StepValues


def denoising_scores(
    policy: Policy,
    batch: TrainingBatch,
    score: Score,
    options: LossOptions,
    *,
    noise: torch.Tensor,
    old: Policy | None = None,
    kl_to: Policy | None = None,
) -> Evaluate:
    """Return the scores of a batch's predictions from noised final latents as a differentiable function.

    The function takes rows, int64 [E] (trajectories), and columns, int64 [E] (timesteps), and returns fp64 [E].

    Args:
        noise: [T, C, H, W]: one draw a timestep, shared by all trajectories, so by both images of every pair.
        old: the policy that made the data, for a score that compares with it.
        kl_to: a fixed policy; the function then also returns the mean square difference of the predictions, fp64 [E].
            It is the KL divergence of the forward process up to a factor of the timestep.
    """
    schedule = policy.schedule

    def call(rows: torch.Tensor, columns: torch.Tensor) -> StepValues:
        step = batch.step_index[columns]
        final, drawn = batch.latents[-1, rows], noise[columns]
        asked = (schedule.noised(step, final, drawn), schedule.timesteps[step], take(batch.prompt, rows))
        target = schedule.target(step, final, drawn)

        def error(network_of: Policy) -> torch.Tensor:
            prediction = network_of.network(*asked)
            return prediction.to(torch.promote_types(prediction.dtype, target.dtype)) - target

        with torch.no_grad():
            old_error = None if old is None else error(old)
            fixed_error = None if kl_to is None else error(kl_to)
        found = error(policy)
        denoised = Denoised(
            error=found,
            old_error=old_error,
            scale=schedule.final_scale(step).double(),
            advantages=batch.targets.advantages[rows, columns],
        )
        kl = None if fixed_error is None else mean_square(found - fixed_error)
        return StepValues(score(denoised, options), kl)

    return call


def forward_noise(batch: TrainingBatch, *, step: int, seed: int) -> torch.Tensor:
    """Draw the forward process's noise of optimizer step `step`: fp32 [T, C, H, W]."""
    shape = (len(batch.step_index), *batch.latents.shape[2:])
    drawn = generator(seed, "forward-noise", step).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(drawn).to(batch.latents.device)
