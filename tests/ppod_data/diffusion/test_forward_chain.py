"""Chains of given images: the sampler's own steps with the true noise, their law, and its distance from a policy's."""

import math
from typing import Any

import pytest
import torch

from ppod_data.diffusion.condition import Conditioning
from ppod_data.diffusion.ddim import DDIMSchedule, build_ddim_schedule, ddim_config
from ppod_data.diffusion.flow import PRESERVING, build_flow_schedule
from ppod_data.diffusion.forward_process import forward_chain, forward_latents
from ppod_data.diffusion.guidance import Guidance, Network
from ppod_data.diffusion.policy import Policy
from ppod_data.errors import ConfigError
from tests.support.pipelines import SCHEDULER

STEPS = 10
ROWS = 4000


def make_schedule(steps: int = STEPS, eta: float = 1.0, **options: Any) -> DDIMSchedule:
    return build_ddim_schedule(ddim_config("DDIMScheduler", SCHEDULER | options), steps, eta)


def policy_of(network: Network, schedule: DDIMSchedule, latent_dtype: torch.dtype) -> Policy:
    """A policy whose network reads no prompt."""
    return Policy(
        network=network,
        schedule=schedule,
        prompts=Conditioning(embed=lambda number: {}, negative=None, device="cpu"),
        guidance=Guidance(1.0, "batched"),
        latent_dtype=latent_dtype,
    )


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw(schedule: DDIMSchedule, encoded: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(latents [S, B, C, H, W], the steps' noise [T, B, C, H, W])."""
    noise = normal(schedule.num_inference_steps, *encoded.shape, seed=1)
    initial = normal(*encoded.shape, seed=2)
    options = {"latent_dtype": torch.float32} | options
    return forward_latents(schedule, encoded, initial_noise=initial, step_noise=noise, **options), noise


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_every_step_is_ddims_posterior_with_the_drawn_noise(prediction_type: str, eta: float) -> None:
    """(x_{t-1} − μ(x_t, x_0)) / σ is the drawn z, with Eq. 7 written out in float64."""
    schedule = make_schedule(eta=eta, prediction_type=prediction_type)
    encoded = normal(3, 4, 8, 8, seed=0)
    latents, noise = draw(schedule, encoded)
    x, x0 = latents.double(), encoded.double()
    for i in range(STEPS):
        alpha, beta, alpha_prev, direction, std = (
            float(values[i].double())
            for values in (
                schedule.sqrt_alpha,
                schedule.sqrt_beta,
                schedule.sqrt_alpha_prev,
                schedule.direction,
                schedule.std,
            )
        )
        mean = alpha_prev * x0 + direction * (x[i] - alpha * x0) / beta
        torch.testing.assert_close((x[i + 1] - mean) / std, noise[i].double(), rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_policy_that_knows_the_point_has_standard_normal_residuals(dtype: torch.dtype) -> None:
    """Where the data are one image, the best network predicts the true noise: its log-probability is that of z, but for
    the rounding of the stored latents, which the residual holds as well."""
    schedule = make_schedule()
    encoded = normal(1, 4, 8, 8, seed=0).expand(6, -1, -1, -1).contiguous()
    step_of = {int(timestep): i for i, timestep in enumerate(schedule.timesteps)}

    def network(latents: torch.Tensor, timesteps: torch.Tensor, condition: Any) -> torch.Tensor:
        index = torch.tensor([step_of[int(timestep)] for timestep in timesteps])
        return schedule.noise(index, latents, encoded[: len(latents)])

    noise = normal(STEPS, *encoded.shape, seed=1)
    chain = forward_chain(
        policy_of(network, schedule, dtype),
        encoded,
        initial_noise=normal(*encoded.shape, seed=2),
        step_noise=noise,
        prompt={},
    )
    square = (noise.double() ** 2).flatten(2).mean(dim=2)
    expected = -0.5 * square - schedule.std.double().log()[:, None] - 0.5 * math.log(2 * math.pi)
    atol = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(chain.log_probs, expected, rtol=0, atol=atol)
    assert chain.latents.dtype == dtype and chain.latents.shape == (STEPS + 1, *encoded.shape)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_every_latent_has_the_forward_processs_distribution(eta: float) -> None:
    """x_t ~ N(√ᾱ_t·x_0, 1 − ᾱ_t), within four standard errors; the last one is at the schedule's own end."""
    schedule = make_schedule(eta=eta)
    latents, _ = draw(schedule, torch.full((ROWS, 1, 1, 2), 0.7))
    ends = torch.cat([schedule.sqrt_alpha, schedule.sqrt_alpha_prev[-1:]]).double()
    for x, end in zip(latents.double(), ends, strict=True):
        std, count = math.sqrt(1 - float(end) ** 2), x.numel()
        assert abs(float(x.mean()) - 0.7 * float(end)) < 4 * std / math.sqrt(count)
        assert abs(float(x.std()) / std - 1) < 4 / math.sqrt(2 * count)


def test_at_eta_1_two_latents_have_the_forward_processs_covariance() -> None:
    """Cov(x_s, x_t | x_0) = √(ᾱ_t / ᾱ_s)·(1 − ᾱ_s), s less noisy, of a chain that adds noise step by step."""
    schedule = make_schedule()
    latents, _ = draw(schedule, torch.zeros(ROWS, 1, 1, 2))
    alpha = schedule.sqrt_alpha.double() ** 2
    x = latents.double().flatten(1)
    for t, s in ((0, 1), (2, 5), (4, 9)):
        expected = math.sqrt(alpha[t] / alpha[s]) * (1 - alpha[s])
        error = math.sqrt(float((1 - alpha[s]) * (1 - alpha[t])) * 2 / x.shape[1])
        assert abs(float((x[t] * x[s]).mean() - expected)) < 4 * error


def test_where_the_schedule_ends_at_one_the_chain_ends_at_the_image() -> None:
    encoded = normal(3, 4, 8, 8, seed=0)
    one = make_schedule(timestep_spacing="trailing", set_alpha_to_one=True)
    assert one.stochastic[-1] is False
    torch.testing.assert_close(draw(one, encoded)[0][-1], encoded, rtol=0, atol=1e-5)
    other = make_schedule()
    distance = (draw(other, encoded)[0][-1] - other.sqrt_alpha_prev[-1] * encoded).std()
    assert float(distance) == pytest.approx(math.sqrt(1 - float(other.sqrt_alpha_prev[-1]) ** 2), rel=0.1)


@pytest.mark.parametrize("noise_level", [0.3, 0.7, 1.0])
def test_a_flow_chain_has_the_forward_processs_distribution_and_ends_at_the_image(noise_level: float) -> None:
    """x_t ~ N((1 − σ_t)·x_0, σ_t²), within four standard errors, and log-probabilities are those of the drawn noise."""
    sigmas = [1.0, 0.8, 0.55, 0.3, 0.009, 0.0]
    chain = {"num_train_timesteps": 1000, "sigmas": sigmas, "step": PRESERVING}
    schedule = build_flow_schedule(chain, 5, noise_level)
    encoded = torch.full((ROWS, 1, 1, 2), 0.7)

    def network(latents: torch.Tensor, timesteps: torch.Tensor, condition: Any) -> torch.Tensor:
        sigma = timesteps.view(-1, 1, 1, 1) / 1000
        return (latents - encoded) / sigma

    noise = normal(5, *encoded.shape, seed=1)
    chains = forward_chain(
        policy_of(network, schedule, torch.float32),
        encoded,
        initial_noise=normal(*encoded.shape, seed=2),
        step_noise=noise,
        prompt={},
    )
    for x, sigma in zip(chains.latents.double(), sigmas, strict=True):
        assert abs(float(x.mean()) - 0.7 * (1 - sigma)) <= 4 * sigma / math.sqrt(x.numel()) + 1e-6
        assert abs(float(x.std()) - sigma) <= 4 * sigma / math.sqrt(2 * x.numel()) + 1e-6
    std = torch.tensor(sigmas[1:-1]).double() * math.sin(noise_level * math.pi / 2)
    square = (noise[:4].double() ** 2).flatten(2).mean(dim=2)
    expected = -0.5 * square - std.log()[:, None] - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(chains.log_probs[:4], expected, rtol=0, atol=2e-3)
    with pytest.raises(ConfigError, match="step is 'other'"):
        build_flow_schedule(chain | {"step": "other"}, 5, noise_level)


def test_every_latent_is_rounded_to_the_storage_dtype() -> None:
    latents, _ = draw(make_schedule(), normal(2, 4, 8, 8, seed=0), latent_dtype=torch.bfloat16)
    assert latents.dtype == torch.bfloat16
    single, _ = draw(make_schedule(), normal(2, 4, 8, 8, seed=0))
    torch.testing.assert_close(latents.float(), single, rtol=0, atol=0.1)


def excess(schedule: DDIMSchedule, variance: float) -> torch.Tensor:
    """For data N(0, variance): by how much a step's variance is above σ² given x_t alone, in units of σ², fp64 [T].

    x_{t-1} = A·x_0 + B·x_t + σ·z with A = √ᾱ_{t-1} − √ᾱ_t·direction / √(1 − ᾱ_t). The exact policy has x_0's mean given
    x_t in x_0's place and σ alone as its spread; the chain has A²·Var(x_0 | x_t) on top.
    """
    alpha, beta, alpha_prev, direction, std = (
        values.double()
        for values in (
            schedule.sqrt_alpha,
            schedule.sqrt_beta,
            schedule.sqrt_alpha_prev,
            schedule.direction,
            schedule.std,
        )
    )
    slope = alpha_prev - alpha * direction / beta
    known = variance * beta**2 / (alpha**2 * variance + beta**2)
    return slope**2 * known / std**2


def test_for_gaussian_data_the_gap_to_the_exact_policy_is_the_closed_form() -> None:
    """Residuals under the policy of the exact score have variance 1 + A²·Var(x_0 | x_t) / σ², at every step."""
    schedule, variance = make_schedule(), 0.6
    step_of = {int(timestep): i for i, timestep in enumerate(schedule.timesteps)}

    def network(latents: torch.Tensor, timesteps: torch.Tensor, condition: Any) -> torch.Tensor:
        """E[ε | x_t] = √(1 − ᾱ_t)·x_t / Var(x_t)."""
        i = step_of[int(timesteps[0])]
        alpha, beta = schedule.sqrt_alpha[i], schedule.sqrt_beta[i]
        return beta * latents / (alpha**2 * variance + beta**2)

    encoded = math.sqrt(variance) * normal(4, 4, 64, 64, seed=0)
    chain = forward_chain(
        policy_of(network, schedule, torch.float32),
        encoded,
        initial_noise=normal(*encoded.shape, seed=2),
        step_noise=normal(STEPS, *encoded.shape, seed=1),
        prompt={},
    )
    expected = 1 + excess(schedule, variance)
    found = -2 * (chain.log_probs.mean(dim=1) + schedule.std.double().log() + 0.5 * math.log(2 * math.pi))
    error = expected * math.sqrt(2 / encoded.numel())
    assert bool(((found - expected).abs() < 4 * error).all())
    assert float(excess(schedule, variance).max()) > 0.05, "the gap is there to be seen"


def test_for_gaussian_data_the_gap_vanishes_as_the_steps_become_many() -> None:
    """The KL between a step of the chain and the exact policy's, summed over all steps but the last, falls with 1 / T.

    The last step goes from the first trained timestep to the schedule's end whatever T is: its part is constant.
    """
    totals, last = [], []
    for steps in (100, 200, 500):
        ratio = 1 + excess(make_schedule(steps), 0.6)
        kl = 0.5 * (ratio - 1 - ratio.log())
        totals.append(float(kl[:-1].sum()))
        last.append(float(kl[-1]))
    assert totals[1] < 0.5 * totals[0] and totals[2] < 0.4 * totals[1]
    assert last == pytest.approx([last[0]] * 3) and last[0] < 0.2
