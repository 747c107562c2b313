"""The forward process is diffusers' own, and the KL of a step is that of its Gaussians."""

import pytest
import torch

from ppod_data.diffusion.ddim import DDIMSchedule, build_ddim_schedule, ddim_config
from ppod_data.diffusion.gaussian import kl_divergence, log_prob

SD = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
STEPS = 20


def schedule(prediction_type: str = "epsilon") -> DDIMSchedule:
    return build_ddim_schedule(
        ddim_config("DDIMScheduler", SD | {"prediction_type": prediction_type}), STEPS, 1.0
    )


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every step of a chain: step_index, latents and noise."""
    latents, noise = torch.randn(2, STEPS, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.arange(STEPS), latents, noise


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_noise_is_added_as_diffusers_does(rows: tuple[torch.Tensor, ...], prediction_type: str) -> None:
    from diffusers import DDIMScheduler

    index, latents, noise = rows
    ours = schedule(prediction_type)
    theirs = DDIMScheduler(**SD, prediction_type=prediction_type)
    expected = theirs.add_noise(latents, noise, ours.timesteps[index])
    assert torch.equal(ours.noised(index, latents, noise), expected)


def test_the_network_is_asked_for_what_diffusers_trains_it_on(rows: tuple[torch.Tensor, ...]) -> None:
    from diffusers import DDIMScheduler

    index, latents, noise = rows
    assert torch.equal(schedule("epsilon").target(index, latents, noise), noise)
    assert torch.equal(schedule("sample").target(index, latents, noise), latents)
    ours = schedule("v_prediction")
    velocity = DDIMScheduler(**SD, prediction_type="v_prediction").get_velocity(
        latents, noise, ours.timesteps[index]
    )
    assert torch.equal(ours.target(index, latents, noise), velocity)


def test_kl_divergence_is_torch_distributions_mean_in_float64(rows: tuple[torch.Tensor, ...]) -> None:
    index, mean, other = rows
    mean, other = mean.double(), other.double()
    std = schedule().std[index].double().view(-1, 1, 1, 1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(other, std)
    )
    found = kl_divergence(schedule(), index, mean, other)
    torch.testing.assert_close(found, expected.flatten(1).mean(dim=1), rtol=1e-13, atol=0)
    assert torch.equal(found, kl_divergence(schedule(), index, other, mean))
    assert kl_divergence(schedule(), index, mean, mean).tolist() == [0.0] * STEPS


def test_kl_is_the_expected_log_ratio_of_ones_own_samples() -> None:
    """E_π[log π - log π'] over samples of π, within four standard errors."""
    ours, index = schedule(), torch.full((4000,), 7)
    generator = torch.Generator().manual_seed(0)
    mean, other = 0.3 * torch.randn(2, 1, 4, 2, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(4000, 4, 2, 2, generator=generator, dtype=torch.float64)
    samples = mean + ours.std[7].double() * noise
    ratio = log_prob(ours, index, mean.expand_as(samples), samples) - log_prob(
        ours, index, other.expand_as(samples), samples
    )
    kl = float(kl_divergence(ours, index[:1], mean, other))
    assert abs(float(ratio.mean()) - kl) < 4 * float(ratio.std()) / 4000**0.5
