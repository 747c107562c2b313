"""The sampler as a policy: each denoising step is a draw from π(x_{t-1} | x_t, c).

    π(x_{t-1} | x_t, c) = N(x_{t-1}; μ_θ(x_t, t, c), σ_t² I)                                      (paper Eq. 1-2)

Sampling, replay and training use this one value, so that all three compute the same μ_θ and the same log-density:

    policy = build_policy(spec, model)                              # ppod_data.generation.sampling
    prompt = policy.prompts.of([0, 0])                              # c of two rows, both of prompt 0
    chain = policy.sample(initial_noise, step_noise, prompt)
    policy.log_prob(chain.latents[i].float(), chain.latents[i + 1].float(), step, prompt)   # = chain.log_probs[i]

Shapes: B rows, S = T+1 latents, T steps, C H W latent. Rows of one call may be at different steps.
"""

from dataclasses import dataclass, replace

import torch

from ppod_data.diffusion import gaussian
from ppod_data.diffusion.condition import Condition, Conditioning
from ppod_data.diffusion.guidance import Guidance, Network, guided_prediction
from ppod_data.diffusion.schedule import Schedule


@dataclass(frozen=True, kw_only=True, eq=False)
class Chain:
    """The denoising chains of one batch."""

    latents: torch.Tensor
    """x_T … x_0, [S, B, C, H, W] in the storage dtype; only the last, [1, B, C, H, W], if recording is off."""
    log_probs: torch.Tensor
    """log π(x_{t-1} | x_t, c) averaged over latent dimensions, fp64 [T, B]; NaN where the step has no density."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Policy:
    """π(x_{t-1} | x_t, c) of a network under guidance, on the chain of a noise schedule."""

    network: Network
    schedule: Schedule
    prompts: Conditioning
    """The embeddings c of the prompts by their number, and that of the negative prompt."""
    guidance: Guidance
    latent_dtype: torch.dtype
    """The storage dtype, to which `sample` rounds every latent."""

    @property
    def device(self) -> str:
        """Where the network, the schedule and the embeddings are."""
        return self.prompts.device

    def with_network(self, network: Network) -> "Policy":
        """Return the policy of another network, such as the fixed reference of the KL term."""
        return replace(self, network=network)

    def mean(self, x_t: torch.Tensor, step: torch.Tensor, prompt: Condition) -> torch.Tensor:
        """Return μ_θ(x_t, t, c), the mean of x_{t-1} (Eq. 2), differentiable in the network's weights.

        Args:
            x_t: fp32 [B, C, H, W].
            step: int64 [B]; step 0 goes from x_T to x_{T-1}.
            prompt: c, [B, …], from `prompts.of`.

        Returns:
            [B, C, H, W], fp32, or fp64 if the network computes in fp64.
        """
        prediction = guided_prediction(
            self.network, x_t, self.schedule.timesteps[step], prompt, self.prompts.negative, self.guidance
        )
        return self.schedule.mean(step, prediction, x_t)

    def log_prob(
        self, x_t: torch.Tensor, x_prev: torch.Tensor, step: torch.Tensor, prompt: Condition
    ) -> torch.Tensor:
        """Return log π(x_{t-1} | x_t, c), averaged over latent dimensions, differentiable in the network's weights.

        The policy that recorded a step gives the recorded number to the last bit, in the same batch shape and
        precision.

        Args:
            x_t, x_prev: x_t and x_{t-1} as stored, fp32 [B, C, H, W].
            step: int64 [B]; every step must be stochastic.
            prompt: c, [B, …], from `prompts.of`.

        Returns:
            fp64 [B].
        """
        return gaussian.log_prob(self.schedule, step, self.mean(x_t, step, prompt), x_prev)

    @torch.no_grad()
    def sample(
        self,
        initial_noise: torch.Tensor,
        step_noise: torch.Tensor,
        prompt: Condition,
        *,
        record: bool = True,
        steps: range | None = None,
    ) -> Chain:
        """Sample B chains from x_T ~ N(0, I) to x_0. Each step continues from the rounded latent.

        Args:
            initial_noise: x_T before rounding, fp32 [B, C, H, W].
            step_noise: standard normal, fp32 [T, B, C, H, W].
            prompt: c, [B, …], from `prompts.of`.
            record: keep every latent and compute log-probabilities; otherwise keep only x_0.
            steps: part of the chain; `initial_noise` is then the latent before its first step. None for all steps.
        """
        steps = steps or range(self.schedule.num_inference_steps)
        latents = initial_noise.to(self.latent_dtype)
        batch = len(latents)
        recorded = [latents]
        # On the device until the chain ends: a copy after each step would wait for the device.
        log_probs = torch.full(
            (self.schedule.num_inference_steps, batch),
            float("nan"),
            dtype=torch.float64,
            device=latents.device,
        )
        for i in steps:
            step = torch.full((batch,), i, device=latents.device)
            mean = self.mean(latents.float(), step, prompt)
            latents = gaussian.sample_next(self.schedule, step, mean, step_noise[i], self.latent_dtype)
            if record:
                recorded.append(latents)
                if self.schedule.stochastic[i]:
                    log_probs[i] = gaussian.log_prob(self.schedule, step, mean, latents)
        return Chain(latents=torch.stack(recorded if record else [latents]), log_probs=log_probs.cpu())
