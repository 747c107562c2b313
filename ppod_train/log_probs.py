"""The policy's log-probabilities of a batch's recorded steps, in the trainer's numerics.

Shapes: E evaluations, U trajectories, T trained steps.
"""

import torch

from ppod_data.diffusion.replay import replay_log_prob
from ppod_data.generate import Sampler
from ppod_data.spec import GenerationSpec
from ppod_train.batches import PreferenceBatch
from ppod_train.gradient import LogProbs


def batch_log_probs(spec: GenerationSpec, sampler: Sampler, batch: PreferenceBatch) -> LogProbs:
    """log π(x_{t-1} | x_t, c) of (trajectory, trained step) pairs of a batch, as a differentiable function.

    The function takes rows [E] (trajectories) and columns [E] (trained steps) and returns fp64 [E].
    """

    def call(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return replay_log_prob(
            sampler.network,
            sampler.schedule,
            latents=batch.latents[batch.current[columns], rows],
            next_latents=batch.latents[batch.following[columns], rows],
            step_index=batch.step_index[columns],
            prompt_embeds=sampler.conditioning.prompt_embeds[batch.prompt_index[rows]],
            negative_embeds=sampler.conditioning.negative_embeds,
            guidance_scale=spec.guidance_scale,
            guidance_mode=spec.guidance_mode,
        )

    return call
