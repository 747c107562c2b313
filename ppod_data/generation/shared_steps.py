"""Steps that the images of a prompt have in common.

With one x_T a prompt (`initial_noise` "per-prompt"), the images of a prompt are equal until the first step that draws
noise (`noisy_steps`). These steps are computed once a prompt, in a batch of that prompt alone. The last bits of a
latent depend on its batch, so only then are they a pure function of (spec, prompt), whatever the batch, shard and
worker of an image.

Shapes: B rows, T steps, C H W latent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ppod_data.diffusion.policy import Policy
from ppod_data.diffusion.schedule import Schedule, spec_schedule
from ppod_data.format.spec import GenerationSpec


def num_shared_steps(spec: GenerationSpec, schedule: Schedule) -> int:
    """Return the number of first steps that the images of a prompt have in common; 0 if they are computed apart."""
    if spec.initial_noise != "per-prompt" or spec.is_forward or spec.num_images_per_prompt == 1:
        return 0
    stochastic = schedule.stochastic
    return stochastic.index(True) if any(stochastic) else 0


def num_denoising_steps(spec: GenerationSpec) -> int:
    """Return the number of steps of single latents that making a spec's samples takes."""
    shared = num_shared_steps(spec, spec_schedule(spec))
    return len(spec.prompts) * shared + spec.num_samples * (spec.num_inference_steps - shared)


@dataclass(eq=False)
class SharedLatents:
    """Latents of the shared steps of one policy's last prompt; samples are in the order of their prompts."""

    prompt: int | None = None
    latents: torch.Tensor | None = None

    def of(self, prompt: int, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return the latents of a prompt, [shared + 1, 1, C, H, W], computed if it is not the last one."""
        if self.prompt != prompt or self.latents is None:
            self.prompt, self.latents = prompt, compute()
        return self.latents


def shared_latents(
    policy: Policy, prompts: list[int], initial: torch.Tensor, count: int, kept: SharedLatents
) -> torch.Tensor:
    """Return x_T and the latents after each of the first `count` steps, [count + 1, B, C, H, W] in the storage dtype.

    Args:
        policy: on a schedule without noise in these steps.
        prompts: the prompt's number of each row.
        initial: x_T before rounding, fp32 [B, C, H, W]; equal for rows of one prompt.
        count: number of shared steps.
        kept: the latents of the last prompt.
    """

    def compute(row: int) -> torch.Tensor:
        x_T = initial[row : row + 1]
        no_noise = torch.zeros_like(x_T).expand(count, *x_T.shape)
        return policy.sample(x_T, no_noise, policy.prompts.of([prompts[row]]), steps=range(count)).latents

    rows = [kept.of(prompt, partial(compute, row)) for row, prompt in enumerate(prompts)]
    return torch.cat(rows, dim=1)
