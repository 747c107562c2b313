"""The noise that a chain leaves in x_0, and the steps that draw noise by default.

A step of standard deviation s that ends at noise level σ adds noise that later steps remove only if s is about σ or
less, since the network sees σ. Stable Diffusion 3's sigmas end …, 0.278, 0.009, 0: the noise of the step to 0.009
(0.225 for 10 steps) would stay in the image. The default is the longest window 0:B whose x_0 varies at most 1.5 times
as much as that of the sampler without noise. It is every step for DDIM.

Shapes: T steps.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ppod_data.diffusion.schedule import Schedule, build_schedule, spec_schedule
from ppod_data.errors import ConfigError
from ppod_data.format.spec import GenerationSpec

MOST_NOISE = 1.5
"""Bound of the standard deviation of x_0, relative to the sampler without noise."""
_DATA_STDS = (0.01, 0.1, 1.0)
"""From a flat area to the whole latent, whose standard deviation is about 1."""
_FINE_DETAIL = 0.05
_UNCLAMPED = 2.0**-10


def final_std(schedule: Schedule, data_std: float) -> float:
    """Return the standard deviation of x_0 for data N(0, data_std²) and a network that predicts exactly.

    The best prediction E[target | x_t] is linear in x_t, so every latent is Gaussian, and a step maps its variance.
    """
    steps = torch.arange(schedule.num_inference_steps)
    zero = torch.zeros(len(steps), 1, 1, 1, dtype=torch.float64)
    one = zero + _UNCLAMPED  # small, so that no predicted x_0 is clamped
    of_data, of_noise = schedule.noised(steps, one, zero), schedule.noised(steps, zero, one)
    target_of_data, target_of_noise = schedule.target(steps, one, zero), schedule.target(steps, zero, one)
    covariance = target_of_data * of_data * data_std**2 + target_of_noise * of_noise
    prediction = covariance / (of_data**2 * data_std**2 + of_noise**2)
    weights = schedule.mean(steps, prediction * one, one) / one
    variance = 1.0
    for weight, std in zip(weights.flatten().tolist(), schedule.std.tolist(), strict=True):
        variance = weight**2 * variance + std**2
    return float(variance**0.5)


def noise_left(spec: GenerationSpec) -> tuple[float, float] | None:
    """Return the standard deviation of x_0 with and without the noise of a spec's steps, for fine detail (0.05).

    Returns:
        None if the first is within `MOST_NOISE` of the second.
    """
    without = build_schedule(spec.scheduler, spec.num_inference_steps, spec.ddim_eta, range(0))
    left, least = (final_std(schedule, _FINE_DETAIL) for schedule in (spec_schedule(spec), without))
    return (left, least) if left > MOST_NOISE * least else None


def quiet_steps(config: Mapping[str, Any], num_inference_steps: int, noise_level: float) -> range:
    """Return the steps that draw noise by default: as many of the first as leave x_0 within `MOST_NOISE`.

    Raises:
        ConfigError: as of `build_schedule`, or a chain in which even the noise of the first step stays in x_0.
    """
    without = build_schedule(config, num_inference_steps, noise_level, range(0))
    most = [MOST_NOISE * final_std(without, data_std) for data_std in _DATA_STDS]
    for end in range(num_inference_steps, 0, -1):
        schedule = build_schedule(config, num_inference_steps, noise_level, range(end))
        stds = [final_std(schedule, data_std) for data_std in _DATA_STDS]
        if all(std <= bound for std, bound in zip(stds, most, strict=True)):
            return range(end)
    raise ConfigError(
        f"a chain of {num_inference_steps} steps at noise level {noise_level:g} leaves noise in the images: give more "
        "--num-inference-steps or a lower --ddim-eta, or --noisy-steps 0:1 to accept it"
    )
