"""Denoising chains of images that were given: noise is drawn onto x_0, and the sampler's own steps take it off again.

x_T is drawn from q(x_T | x_0). Then every step is the sampler's, with the true noise in place of a prediction:

    ε_t = (x_t − √ᾱ_t·x_0) / √(1 − ᾱ_t),    x_{t-1} = √ᾱ_{t-1}·x_0 + √(1 − ᾱ_{t-1} − σ_t²)·ε_t + σ_t·z_t

That is q_σ(x_{t-1} | x_t, x_0), Eq. 7 of "Denoising Diffusion Implicit Models" (Song et al., 2021): every x_t of the
chain has the distribution q(x_t | x_0), and at η = 1 the chain is one draw of the forward process. It is what a policy
would sample that knew the image; docs/labels.md says what that approximates.

Flow-matching models take coefficient-preserving steps, whose x_t have the distribution of x_σ = (1 − σ)·x_0 + σ·noise:

    x_{t-1} = (1 − σ_{t-1})·x_0 + σ_{t-1}·(cos(aπ/2)·ε_t + sin(aπ/2)·z_t),    ε_t = (x_t − (1 − σ_t)·x_0) / σ_t

Shapes: B rows, S = T+1 latents, T steps, C H W latent.
"""

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.gaussian import sample_next
from ppod_data.diffusion.policy import Chain, Policy
from ppod_data.diffusion.schedule import Schedule


def forward_latents(
    schedule: Schedule,
    encoded: torch.Tensor,
    *,
    initial_noise: torch.Tensor,
    step_noise: torch.Tensor,
    latent_dtype: torch.dtype,
) -> torch.Tensor:
    """x_T … x_0, [S, B, C, H, W] in the storage dtype; each is rounded, and the chain goes on from the rounded value.

    The last latent is the last step's sample, not `encoded`: it is that image exactly (to its rounding) only where the
    schedule ends at ᾱ = 1.

    Args:
        encoded: x_0 of the images, fp32 [B, C, H, W].
        initial_noise: standard normal, fp32 [B, C, H, W].
        step_noise: standard normal, fp32 [T, B, C, H, W].
    """
    index = torch.zeros(len(encoded), dtype=torch.int64, device=encoded.device)
    chain = [schedule.noised(index, encoded, initial_noise).to(latent_dtype)]
    for i in range(schedule.num_inference_steps):
        latents = chain[-1].float()
        noise = schedule.noise(index + i, latents, encoded)
        mean = schedule.mean(index + i, schedule.target(index + i, encoded, noise), latents)
        chain.append(sample_next(schedule, index + i, mean, step_noise[i], latent_dtype))
    return torch.stack(chain)


@torch.no_grad()
def forward_chain(
    policy: Policy,
    encoded: torch.Tensor,
    *,
    initial_noise: torch.Tensor,
    step_noise: torch.Tensor,
    prompt: Condition,
) -> Chain:
    """Return the chains of `forward_latents`, with the log-probabilities that the policy gives their steps.

    Args:
        policy: on the schedule of a data set of given images.
        encoded, initial_noise, step_noise: as for `forward_latents`.
        prompt: c, [B, …], from `policy.prompts.of`.
    """
    schedule = policy.schedule
    latents = forward_latents(
        schedule,
        encoded,
        initial_noise=initial_noise,
        step_noise=step_noise,
        latent_dtype=policy.latent_dtype,
    )
    batch = len(encoded)
    log_probs = torch.full((schedule.num_inference_steps, batch), float("nan"), dtype=torch.float64)
    for i, stochastic in enumerate(schedule.stochastic):
        if stochastic:
            step = torch.full((batch,), i, device=encoded.device)
            x_t, x_prev = latents[i].float(), latents[i + 1].float()
            log_probs[i] = policy.log_prob(x_t, x_prev, step, prompt).cpu()
    return Chain(latents=latents, log_probs=log_probs)
