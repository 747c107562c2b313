"""A DDIM chain: its variance schedule, as one coefficient a step, and the mean of a step.

Shapes: B rows (each a step of some chain), T steps, C H W latent. Step 0 is the noisiest: it takes x_T to x_{T-1}.

The betas, their cumulative products and the timesteps are diffusers' own (`DDIMScheduler`); this module turns them
into the coefficients of Eq. 12 and 16 of "Denoising Diffusion Implicit Models" (Song et al., 2021) with the same fp32
operations in the same order as `DDIMScheduler.step`, so that a step of ours equals a step of theirs bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from ppod_data.errors import ConfigError

# What a conversion from another scheduler writes where that scheduler's configuration is silent. `clip_sample` and
# `set_alpha_to_one` are Stable Diffusion's values, not DDIMScheduler's defaults: latents are not in [-1, 1].
_CONVERSION_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "set_alpha_to_one": False,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "thresholding": False,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True, kw_only=True, eq=False)
class DDIMSchedule:
    """The coefficients of a DDIM chain; every tensor is fp32 of shape [T] unless it says otherwise."""

    timesteps: torch.Tensor
    """The timestep that the network sees at each step, int64 [T], descending."""
    sqrt_alpha: torch.Tensor
    """√ᾱ_t"""
    sqrt_beta: torch.Tensor
    """√(1 − ᾱ_t)"""
    sqrt_alpha_prev: torch.Tensor
    """√ᾱ_{t-1}"""
    direction: torch.Tensor
    """√(1 − ᾱ_{t-1} − σ_t²), the weight of the predicted noise in the mean of x_{t-1}."""
    std: torch.Tensor
    """σ_t = eta·√variance, the standard deviation of x_{t-1} given x_t; 0 where the step is deterministic."""
    prediction_type: str
    clip_sample_range: float | None
    """The predicted x_0 is clamped to ± this number; None: not clamped."""

    @property
    def num_inference_steps(self) -> int:
        """T, the number of steps."""
        return len(self.timesteps)

    @property
    def stochastic(self) -> tuple[bool, ...]:
        """For each step whether it has a density: False where the variance is zero."""
        return tuple((self.std > 0).tolist())

    def to(self, device: str | torch.device) -> "DDIMSchedule":
        """Return the schedule with its tensors on `device`."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        return replace(self, **moved)

    def mean(
        self, step_index: torch.Tensor, model_output: torch.Tensor, latents: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean μ of x_{t-1} given x_t, with the operations of `DDIMScheduler.step` in their order.

        Args:
            step_index: int64 [B], 0 is the noisiest step.
            model_output: the (guided) prediction of the network, [B, C, H, W], fp32 or fp64.
            latents: x_t in the same dtype, [B, C, H, W].

        Returns:
            [B, C, H, W].
        """

        def coefficient(values: torch.Tensor) -> torch.Tensor:
            return values[step_index].view(-1, 1, 1, 1)

        sqrt_alpha, sqrt_beta = coefficient(self.sqrt_alpha), coefficient(self.sqrt_beta)
        if self.prediction_type == "epsilon":
            denoised = (latents - sqrt_beta * model_output) / sqrt_alpha
            noise = model_output
        elif self.prediction_type == "v_prediction":
            denoised = sqrt_alpha * latents - sqrt_beta * model_output
            noise = sqrt_alpha * model_output + sqrt_beta * latents
        else:  # "sample"
            denoised = model_output
            noise = (latents - sqrt_alpha * denoised) / sqrt_beta
        if self.clip_sample_range is not None:
            denoised = denoised.clamp(-self.clip_sample_range, self.clip_sample_range)
        direction = coefficient(self.direction) * noise
        return coefficient(self.sqrt_alpha_prev) * denoised + direction

    def noised(self, step_index: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Apply the forward process: x_t = √ᾱ_t·x_0 + √(1 − ᾱ_t)·noise (DDPM Eq. 4), [B, C, H, W]."""
        sqrt_alpha, sqrt_beta = self._forward_coefficients(step_index)
        return sqrt_alpha * latents + sqrt_beta * noise

    def noise(self, step_index: torch.Tensor, latents: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        """Return the noise with which `noised` makes `latents` of `original`, [B, C, H, W]."""
        sqrt_alpha, sqrt_beta = self._forward_coefficients(step_index)
        return (latents - sqrt_alpha * original) / sqrt_beta

    def target(self, step_index: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return what the network should predict from `noised`: the noise, v or x_0, by its prediction type."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            sqrt_alpha, sqrt_beta = self._forward_coefficients(step_index)
            return sqrt_alpha * noise - sqrt_beta * latents
        return latents

    def final_scale(self, step_index: torch.Tensor) -> torch.Tensor:
        """Return the error of the predicted x_0 in units of the prediction's error, [B]."""
        sqrt_alpha, sqrt_beta = self.sqrt_alpha[step_index], self.sqrt_beta[step_index]
        if self.prediction_type == "epsilon":
            return sqrt_beta / sqrt_alpha
        return sqrt_beta if self.prediction_type == "v_prediction" else torch.ones_like(sqrt_beta)

    def _forward_coefficients(self, step_index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.sqrt_alpha[step_index].view(-1, 1, 1, 1), self.sqrt_beta[step_index].view(-1, 1, 1, 1)


def ddim_config(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole DDIM configuration of a pipeline whose scheduler is `class_name` with `config`.

    A scheduler other than DDIMScheduler keeps the model's noise schedule, prediction type and timestep spacing, except
    that `linspace`, the default of solvers that end at timestep 0, becomes DDIM's `leading`.

    Raises:
        ConfigError: the pipeline is not a discrete-time Gaussian diffusion (flow matching, for instance).
    """
    if "beta_schedule" not in config:
        raise ConfigError(
            f"the scheduler {class_name} has no beta schedule: pipelines of this class are supported as discrete-time "
            "Gaussian diffusion models only"
        )
    if class_name == "DDIMScheduler":
        from diffusers import DDIMScheduler

        defaults = {key: DDIMScheduler().config[key] for key in _CONVERSION_DEFAULTS}
        converted = {key: config.get(key, default) for key, default in defaults.items()}
    else:
        converted = {key: config.get(key, default) for key, default in _CONVERSION_DEFAULTS.items()}
        if converted["timestep_spacing"] == "linspace":
            converted["timestep_spacing"] = "leading"
    betas = converted["trained_betas"]
    return converted | {"trained_betas": None if betas is None else [float(beta) for beta in betas]}


def build_ddim_schedule(
    config: Mapping[str, Any], num_inference_steps: int, ddim_eta: float, noisy_steps: range | None = None
) -> DDIMSchedule:
    """Return the coefficients of a chain of `num_inference_steps` steps with noise level 0 < `ddim_eta` ≤ 1.

    Args:
        config: a complete DDIM configuration, as `ddim_config` returns it.
        num_inference_steps: T.
        ddim_eta: η of the noisy steps.
        noisy_steps: the steps with η > 0; None for all.

    Raises:
        ConfigError: an option that a recorded chain cannot have, by name.
    """
    from diffusers import DDIMScheduler

    _refuse(config, num_inference_steps, ddim_eta)
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(num_inference_steps)
    timesteps = [int(t) for t in scheduler.timesteps if t >= 0]  # trailing, 61 steps: a rounded 0 adds a −1
    _refuse_broken_chain(config, timesteps, num_inference_steps)

    columns: dict[str, list[torch.Tensor]] = {
        name: [] for name in ("sqrt_alpha", "sqrt_beta", "sqrt_alpha_prev", "direction", "std")
    }
    following = _following(timesteps, config["num_train_timesteps"] // num_inference_steps)
    for step, (timestep, previous) in enumerate(zip(timesteps, following, strict=True)):
        alpha = scheduler.alphas_cumprod[timestep]
        alpha_prev = scheduler.alphas_cumprod[previous] if previous >= 0 else scheduler.final_alpha_cumprod
        variance = scheduler._get_variance(timestep, previous).clamp(min=0)
        eta = ddim_eta if noisy_steps is None or step in noisy_steps else 0.0
        std = eta * variance**0.5
        columns["sqrt_alpha"].append(alpha**0.5)
        columns["sqrt_beta"].append((1 - alpha) ** 0.5)
        columns["sqrt_alpha_prev"].append(alpha_prev**0.5)
        # Rounding may push the radicand below 0 at eta 1, where it is 0 in exact arithmetic for a zero terminal SNR.
        columns["direction"].append((1 - alpha_prev - std**2).clamp(min=0) ** 0.5)
        columns["std"].append(std)
    if float(columns["sqrt_alpha"][0]) == 0.0 and config["prediction_type"] == "epsilon":
        raise ConfigError(
            "prediction_type epsilon has no x_0 at a zero terminal SNR (rescale_betas_zero_snr): "
            "use a v_prediction model"
        )
    return DDIMSchedule(
        timesteps=torch.tensor(timesteps),
        prediction_type=config["prediction_type"],
        clip_sample_range=float(config["clip_sample_range"]) if config["clip_sample"] else None,
        **{name: torch.stack(values).float() for name, values in columns.items()},
    )


def _refuse(config: Mapping[str, Any], num_inference_steps: int, ddim_eta: float) -> None:
    if not 0 < ddim_eta <= 1:
        raise ConfigError(f"ddim_eta must be in (0, 1], not {ddim_eta}: with 0 the chain has no density")
    if not 1 <= num_inference_steps <= config["num_train_timesteps"]:
        raise ConfigError(
            f"num_inference_steps must be in 1..{config['num_train_timesteps']}, not {num_inference_steps}"
        )
    if config["prediction_type"] not in PREDICTION_TYPES:
        raise ConfigError(
            f"prediction_type {config['prediction_type']} is not supported: {PREDICTION_TYPES} are"
        )
    if config["thresholding"]:
        raise ConfigError(
            "thresholding is not supported: it makes the step depend on the whole batch's quantiles"
        )


def _following(timesteps: Sequence[int], stride: int) -> list[int]:
    """Return the timestep at which each step ends; below 0 is the end of the schedule, `final_alpha_cumprod`.

    DDIMScheduler.step takes t − stride. Where the list has another distance (linspace; trailing, if T does not divide
    the trained timesteps) that is not the timestep of the next step, and the list's own is taken.
    """
    theirs = [timestep - stride for timestep in timesteps]
    return theirs if theirs[:-1] == list(timesteps[1:]) else [*timesteps[1:], -1]


def ends_as_diffusers(config: Mapping[str, Any], num_inference_steps: int) -> bool:
    """Return True if every step of a chain ends at the timestep at which `DDIMScheduler.step` ends it.

    Args:
        config: A complete DDIM configuration, as `ddim_config` returns it.
        num_inference_steps: T.
    """
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(num_inference_steps)
    timesteps = [int(t) for t in scheduler.timesteps if t >= 0]
    stride = config["num_train_timesteps"] // num_inference_steps
    ends = [max(timestep, -1) for timestep in _following(timesteps, stride)]
    return ends == [max(timestep - stride, -1) for timestep in timesteps]


def _refuse_broken_chain(
    config: Mapping[str, Any], timesteps: Sequence[int], num_inference_steps: int
) -> None:
    """Check that the list is a chain: T timesteps of the trained ones, falling."""
    if timesteps[0] >= config["num_train_timesteps"]:
        raise ConfigError(
            f"steps_offset {config['steps_offset']} puts the first timestep at {timesteps[0]}, outside the "
            f"{config['num_train_timesteps']} trained ones: use fewer num_inference_steps"
        )
    falling = all(before > after for before, after in pairwise(timesteps)) and timesteps[-1] >= 0
    if len(timesteps) != num_inference_steps or not falling:
        raise ConfigError(
            f"timestep_spacing {config['timestep_spacing']} has no chain of {num_inference_steps} steps: give another "
            "num_inference_steps"
        )
