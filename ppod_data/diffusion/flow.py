"""A flow-matching model's chain: the stochastic form of its sampler (Flow-GRPO, Liu et al., 2025, Eq. 9).

Shapes: B rows (each a step of some chain), T steps, C H W latent. Step 0 is the noisiest: it takes x_T to x_{T-1}.

The model moves data x_0 to noise along x_σ = (1 − σ)·x_0 + σ·noise, and its network predicts the velocity
v = noise − x_0. Euler steps of dx = v·dσ are a deterministic sampler, whose steps have no density. Since the mean noise
of x_σ is x_σ + (1 − σ)·v, its score is −(x_σ + (1 − σ)·v) / σ; so the stochastic differential equation

    dx = [v + g²·(x + (1 − σ)·v) / 2σ]·dσ + g·dw        with g = a·√(σ / (1 − σ))

has the same distribution at every σ for every noise level a, and its Euler-Maruyama steps are Gaussians. Two places
need a choice. At σ = 1 g is infinite: there the next sigma stands in its denominator, as in Flow-GRPO. The step that
ends at σ = 0 is deterministic: its noise would stay in the image. A step that ends at a small σ leaves noise as well,
if its standard deviation exceeds σ: `noise_left` bounds it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from ppod_data.errors import ConfigError

PRESERVING = "coefficient-preserving"
"""The value of a chain's `step` for coefficient-preserving steps."""
NOISE_LEVEL = 0.7
"""a by default, as in Flow-GRPO."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowSchedule:
    """The coefficients of a stochastic flow-matching chain; every tensor is fp32 of shape [T]."""

    timesteps: torch.Tensor
    """σ_t·num_train_timesteps, as the scheduler gives it to the pipeline; falling."""
    sigma: torch.Tensor
    """σ_t: the share of noise in x_t."""
    latent_weight: torch.Tensor
    """1 − g²·(σ_t − σ_{t-1}) / 2σ_t, the weight of x_t in the mean of x_{t-1}."""
    velocity_weight: torch.Tensor
    """−(1 + g²·(1 − σ_t) / 2σ_t)·(σ_t − σ_{t-1}), the weight of the predicted velocity."""
    std: torch.Tensor
    """g·√(σ_t − σ_{t-1}), the standard deviation of x_{t-1} given x_t; 0 for the last step and other quiet ones."""

    @property
    def num_inference_steps(self) -> int:
        """T, the number of steps."""
        return len(self.timesteps)

    @property
    def stochastic(self) -> tuple[bool, ...]:
        """For each step whether it has a density: False where the variance is zero."""
        return tuple((self.std > 0).tolist())

    def to(self, device: str | torch.device) -> "FlowSchedule":
        """Return the schedule with its tensors on `device`."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in vars(self).items()}
        return replace(self, **moved)

    def mean(
        self, step_index: torch.Tensor, model_output: torch.Tensor, latents: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean μ of x_{t-1} given x_t; without noise `FlowMatchEulerDiscreteScheduler.step` bit for bit.

        Args:
            step_index: int64 [B], 0 is the noisiest step.
            model_output: the (guided) velocity, [B, C, H, W], fp32 or fp64.
            latents: x_t in the same dtype, [B, C, H, W].

        Returns:
            [B, C, H, W].
        """
        latent_weight = self.latent_weight[step_index].view(-1, 1, 1, 1)
        velocity_weight = self.velocity_weight[step_index].view(-1, 1, 1, 1)
        return latent_weight * latents + velocity_weight * model_output

    def noised(self, step_index: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Apply the forward process: x_t = (1 − σ_t)·x_0 + σ_t·noise, [B, C, H, W]."""
        sigma = self.sigma[step_index].view(-1, 1, 1, 1)
        return (1 - sigma) * latents + sigma * noise

    def noise(self, step_index: torch.Tensor, latents: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        """Return the noise with which `noised` makes `latents` of `original`, [B, C, H, W]."""
        sigma = self.sigma[step_index].view(-1, 1, 1, 1)
        return (latents - (1 - sigma) * original) / sigma

    def target(self, step_index: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return what the network should predict from `noised`: the velocity noise − x_0, at every step."""
        return noise - latents

    def final_scale(self, step_index: torch.Tensor) -> torch.Tensor:
        """Return the error of the predicted x_0 in units of the prediction's error, [B]: x_0 = x_t − σ_t·v."""
        return self.sigma[step_index]


def flow_config(scheduler: Any, *, image_seq_len: int, sigmas_from_one: bool) -> dict[str, Any]:
    """Return the configuration of a pipeline's flow-matching scheduler, with every key and the pipeline's additions.

    Args:
        image_seq_len: tokens of an image, from which dynamic shifting takes its `mu`.
        sigmas_from_one: the pipeline gives the scheduler the sigmas 1, 1 − 1/T, … 1/T before shifting (FLUX); otherwise
            the scheduler makes them itself (Stable Diffusion 3).

    Raises:
        ConfigError: another scheduler than FlowMatchEulerDiscreteScheduler, or sigmas that rise.
    """
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

    class_name = type(scheduler).__name__
    if class_name != "FlowMatchEulerDiscreteScheduler":
        raise ConfigError(
            f"the scheduler {class_name} is not supported for a flow-matching model: give the pipeline its "
            "FlowMatchEulerDiscreteScheduler"
        )
    config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    if config["invert_sigmas"]:
        raise ConfigError("invert_sigmas is not supported: its chain goes from data to noise")
    shifts = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(image_seq_len, *(config[key] for key in shifts))
    dynamic = {"mu": float(mu)} if config["use_dynamic_shifting"] else {}
    return config | dynamic | {"sigmas_from_one": sigmas_from_one}


def flow_chain(config: Mapping[str, Any], num_inference_steps: int) -> dict[str, Any]:
    """Return the scheduler's own T + 1 sigmas for a configuration of `flow_config`, as plain JSON values.

    The spec holds these numbers and not the configuration: a sigma is never computed from a timestep again.

    Raises:
        ConfigError: a number of steps that has no chain.
    """
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler

    most = config["num_train_timesteps"]
    if not 2 <= num_inference_steps <= most:
        raise ConfigError(
            f"num_inference_steps must be in 2..{most}, not {num_inference_steps}: the last step of a flow-matching "
            "chain is deterministic, so one step has no log-probability"
        )
    options = dict(config)
    from_one, mu = options.pop("sigmas_from_one"), options.pop("mu", None)
    if per_step := options.pop("mu_per_step", 0):
        mu += per_step * num_inference_steps
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    if from_one:
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        scheduler.set_timesteps(num_inference_steps, sigmas=sigmas, mu=mu)
    else:
        scheduler.set_timesteps(num_inference_steps, mu=mu)
    return {"num_train_timesteps": most, "sigmas": scheduler.sigmas.tolist()}


def build_flow_schedule(
    chain: Mapping[str, Any], num_inference_steps: int, noise_level: float, noisy_steps: range | None = None
) -> FlowSchedule:
    """Return the coefficients of a chain with the sigmas of `flow_chain` and noise level 0 < a = `noise_level` ≤ 1.

    Steps outside `noisy_steps` (None: all are noisy) are Euler steps of the model's own sampler.

    They are computed in fp64 from the fp32 sigmas and rounded once.

    Raises:
        ConfigError: sigmas that are no chain of `num_inference_steps` steps, or a noise level out of range.
    """
    if not 0 < noise_level <= 1:
        raise ConfigError(f"ddim_eta must be in (0, 1], not {noise_level}: with 0 the chain has no density")
    sigmas, scale = chain["sigmas"], chain.get("num_train_timesteps")
    if not isinstance(scale, int) or scale < 1:
        raise ConfigError(
            f"the scheduler's num_train_timesteps must be a whole number above 0, not {scale!r}"
        )
    falling = (
        isinstance(sigmas, list)
        and len(sigmas) == num_inference_steps + 1 >= 3
        and all(isinstance(sigma, (int, float)) for sigma in sigmas)
        and all(before > after for before, after in pairwise(sigmas))
        and sigmas[0] <= 1
        and sigmas[-1] == 0
    )
    if not falling:
        raise ConfigError(
            f"the scheduler's sigmas are no chain of {num_inference_steps} steps: it needs {num_inference_steps + 1} "
            "falling numbers, from at most 1 to 0"
        )
    if chain.get("step", PRESERVING) != PRESERVING:
        raise ConfigError(
            f"the scheduler's step is {str(chain['step'])[:60]!r}: {PRESERVING} or none is known"
        )
    coefficients = _preserving_step if "step" in chain else _flow_grpo_step
    rows = []
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        noisy = following > 0 and (noisy_steps is None or step in noisy_steps)
        rows.append(coefficients(sigma, following, noise_level if noisy else 0.0))
    columns = dict(zip(("latent_weight", "velocity_weight", "std"), zip(*rows, strict=True), strict=True))
    sigma = torch.tensor(sigmas[:-1], dtype=torch.float32)
    return FlowSchedule(
        timesteps=sigma * scale,
        sigma=sigma,
        **{name: torch.tensor(values, dtype=torch.float32) for name, values in columns.items()},
    )


def _flow_grpo_step(sigma: float, following: float, noise_level: float) -> tuple[float, float, float]:
    """Return the weights of x_t and of the velocity in the mean of x_{t-1}, and its standard deviation."""
    finite = following if sigma == 1 else sigma  # σ = 1: g would be infinite
    g = noise_level * math.sqrt(sigma / (1 - finite)) if noise_level else 0.0
    length = sigma - following
    latent_weight = 1 - g**2 / (2 * sigma) * length
    velocity_weight = -(1 + g**2 * (1 - sigma) / (2 * sigma)) * length
    return latent_weight, velocity_weight, g * math.sqrt(length)


def _preserving_step(sigma: float, following: float, noise_level: float) -> tuple[float, float, float]:
    """Return the coefficients of (1 − σ')·x̂_0 + σ'·cos(aπ/2)·ε̂ + σ'·sin(aπ/2)·z, as those of `_flow_grpo_step`.

    x̂_0 = x − σ·v and ε̂ = x + (1 − σ)·v are the predictions (Coefficients-Preserving Sampling, 2025).
    """
    std = following * math.sin(noise_level * math.pi / 2)
    direction = following * math.cos(noise_level * math.pi / 2)
    latent_weight = 1 - following + direction
    return latent_weight, direction * (1 - sigma) - (1 - following) * sigma, std
