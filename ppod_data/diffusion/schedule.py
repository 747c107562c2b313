"""What sampling, replay and training ask of a chain, whatever kind of model it is of.

Shapes: B rows (each a step of some chain), T steps, C H W latent. Step 0 is the noisiest: it takes x_T to x_{T-1}.
"""

from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch

from ppod_data.diffusion.ddim import build_ddim_schedule
from ppod_data.diffusion.flow import build_flow_schedule, flow_chain
from ppod_data.errors import ConfigError, PpodError
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.spec_checks import check_scheduler

_UNUSABLE = (TypeError, ValueError, KeyError, IndexError, ArithmeticError, RuntimeError, AssertionError)
"""What diffusers and torch raise for a configuration of other keys, types or sizes."""


class Schedule(Protocol):
    """A chain of T Gaussian steps: `ddim.DDIMSchedule` or `flow.FlowSchedule`."""

    @property
    def timesteps(self) -> torch.Tensor:
        """What the network is told at each step, [T]; falling."""

    @property
    def std(self) -> torch.Tensor:
        """The standard deviation of x_{t-1} given x_t, fp32 [T]; 0 where the step is deterministic."""

    @property
    def num_inference_steps(self) -> int:
        """T."""

    @property
    def stochastic(self) -> tuple[bool, ...]:
        """For each step whether it has a density: False where the variance is zero, as outside the noisy steps."""

    def mean(
        self, step_index: torch.Tensor, model_output: torch.Tensor, latents: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean of x_{t-1} given x_t and the network's guided prediction, [B, C, H, W]."""

    def noised(self, step_index: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return x_t by the forward process from x_0 and standard normal noise, [B, C, H, W]."""

    def noise(self, step_index: torch.Tensor, latents: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        """Return the noise with which `noised` makes `latents` of `original`, [B, C, H, W]."""

    def target(self, step_index: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return what the network should predict from `noised`, [B, C, H, W]."""

    def final_scale(self, step_index: torch.Tensor) -> torch.Tensor:
        """Return the error of the predicted x_0 in units of the prediction's error, [B]."""

    def to(self, device: str | torch.device) -> Self:
        """Return the schedule with its tensors on `device`."""


def sensitivity(schedule: Schedule) -> tuple[float, ...]:
    """k_t = |dμ/dε| / σ_t of each step: a change d (rms) of the guided prediction makes log π smaller by (k_t·d)²/2.

    It follows from the schedule alone, clamping of x_0 left aside. 0 where a step is deterministic.
    """
    steps = torch.arange(schedule.num_inference_steps)
    nothing = torch.zeros(len(steps), 1, 1, 1, dtype=torch.float64)
    little = 2.0**-10  # no predicted x_0 is clamped
    change = schedule.mean(steps, nothing + little, nothing) - schedule.mean(steps, nothing, nothing)
    std = schedule.std.double()
    found = change.flatten().abs() / little / std.clamp(min=1e-30)
    return tuple(torch.where(std > 0, found, 0.0).tolist())


def chain_config(scheduler_config: Mapping[str, Any], num_inference_steps: int) -> Mapping[str, Any]:
    """Return a spec's scheduler for chains of T steps: a DDIM configuration, or the sigmas of a flow-matching model."""
    if "beta_schedule" in scheduler_config:
        return scheduler_config
    return flow_chain(scheduler_config, num_inference_steps)


def spec_schedule(spec: GenerationSpec) -> Schedule:
    """Return the schedule of a spec's chains. Raises `ConfigError` as `build_schedule`."""
    return build_schedule(spec.scheduler, spec.num_inference_steps, spec.ddim_eta, spec.noisy_range)


def forward_steps(spec: GenerationSpec) -> tuple[int, ...]:
    """Return the steps that draw noise without a window: a forward process has their timesteps, whatever the window."""
    schedule = build_schedule(spec.scheduler, spec.num_inference_steps, spec.ddim_eta)
    return tuple(step for step, draws in enumerate(schedule.stochastic) if draws)


def build_schedule(
    config: Mapping[str, Any], num_inference_steps: int, noise_level: float, noisy_steps: range | None = None
) -> Schedule:
    """Return the chain that a spec's scheduler describes.

    Args:
        config: the spec's `scheduler`.
        num_inference_steps: T.
        noise_level: the spec's `ddim_eta`, in (0, 1].
        noisy_steps: the steps that draw noise; None for all. Any other step is the sampler's own without noise.

    Raises:
        ConfigError: an option that a recorded chain cannot have, by name; a configuration that is no chain.
    """
    check_scheduler(config)
    try:
        if "sigmas" in config:
            schedule: Schedule = build_flow_schedule(config, num_inference_steps, noise_level, noisy_steps)
        else:
            schedule = build_ddim_schedule(config, num_inference_steps, noise_level, noisy_steps)
    except PpodError:
        raise
    except _UNUSABLE as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise ConfigError(
            f"the scheduler's configuration is no chain ({type(error).__name__}: {reason}): it is not one that ppod "
            "wrote"
        ) from error
    values = [value for value in vars(schedule).values() if isinstance(value, torch.Tensor)]
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise ConfigError("the scheduler's configuration gives coefficients that are NaN or infinite")
    return schedule
