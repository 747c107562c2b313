"""The numerator of the paper's log-ratio: log π of a batch's recorded steps, in the trainer's numerics.

From Eq. 10 to the Gaussian:

    ppod_train.objectives.ppod.ppod_loss            −log σ(η·D), D a sum of clipped log π(x_{t-1} | x_t, c) − log π_ref
    ppod_train.step.log_probs.batch_log_probs       log π(x_{t-1} | x_t, c) of (trajectory, trained step)
    ppod_data.diffusion.policy.Policy.log_prob      μ_θ(x_t, t, c) under guidance, and the density of x_{t-1}
    ppod_data.diffusion.gaussian.log_prob           N(x_{t-1}; μ, σ_t² I)

log π_ref, the denominator, is stored with the data (`TrainingBatch.reference_log_probs`).

Shapes: E evaluations, U trajectories, T trained steps, C H W latent.
"""

import numpy as np
import torch

from ppod_data.diffusion.condition import take
from ppod_data.diffusion.gaussian import kl_divergence, log_prob
from ppod_data.diffusion.policy import Policy
from ppod_data.support.noise import generator
from ppod_train.data.batches import TrainingBatch
from ppod_train.step.gradient import Evaluate, StepValues


def batch_log_probs(policy: Policy, batch: TrainingBatch, *, kl_to: Policy | None = None) -> Evaluate:
    """Return log π(x_{t-1} | x_t, c) of a batch's recorded steps as a differentiable function.

    The function takes rows, int64 [E] (trajectories), and columns, int64 [E] (trained steps), and returns fp64 [E].

    Args:
        kl_to: a fixed policy; the function then also returns KL(π ‖ kl_to) of each step, fp64 [E].
    """

    def call(rows: torch.Tensor, columns: torch.Tensor) -> StepValues:
        x_t, x_prev, step, prompt = batch.transition(rows, columns)
        if kl_to is None:
            return StepValues(policy.log_prob(x_t, x_prev, step, prompt))
        with torch.no_grad():
            fixed = kl_to.mean(x_t, step, prompt)
        mean = policy.mean(x_t, step, prompt)  # both values are of one network call
        return StepValues(
            log_prob(policy.schedule, step, mean, x_prev), kl_divergence(policy.schedule, step, mean, fixed)
        )

    return call


def denoising_scores(policy: Policy, batch: TrainingBatch, *, noise: torch.Tensor) -> Evaluate:
    """Return −½·(mean square error of the prediction from noised final latents), in place of a log-probability.

    The prediction is without guidance, as in the training of a diffusion model (Diffusion-DPO, Wallace et al. 2024).

    Args:
        noise: [T, C, H, W]: one draw a timestep, shared by all trajectories, so by both images of every pair.
    """
    schedule = policy.schedule

    def call(rows: torch.Tensor, columns: torch.Tensor) -> StepValues:
        step = batch.step_index[columns]
        final, drawn = batch.latents[-1, rows], noise[columns]
        prediction = policy.network(
            schedule.noised(step, final, drawn), schedule.timesteps[step], take(batch.prompt, rows)
        )
        target = schedule.target(step, final, drawn)
        error = prediction.to(torch.promote_types(prediction.dtype, target.dtype)) - target
        return StepValues(-0.5 * (error * error).flatten(1).double().mean(dim=1))

    return call


def forward_noise(batch: TrainingBatch, *, step: int, seed: int) -> torch.Tensor:
    """Draw the forward process's noise of optimizer step `step`: fp32 [T, C, H, W]."""
    shape = (len(batch.step_index), *batch.latents.shape[2:])
    drawn = generator(seed, "forward-noise", step).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(drawn).to(batch.latents.device)
