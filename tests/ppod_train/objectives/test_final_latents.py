"""Scores of predictions from noised x_0: by hand, against the authors' code, and in every parametrisation."""

import numpy as np
import pytest
import torch

from ppod_data.diffusion.ddim import PREDICTION_TYPES, DDIMSchedule, build_ddim_schedule, ddim_config
from ppod_data.diffusion.flow import FlowSchedule
from ppod_train.objectives.awm import awm_score
from ppod_train.objectives.denoised import Denoised
from ppod_train.objectives.diffusion_nft import nft_score
from ppod_train.objectives.stepwise import denoising_score
from ppod_train.objectives.targets import LossOptions
from tests.support.loss_cases import tensor


def denoised(error: list[float], old: list[float], scale: float = 2.0, advantage: float = 0.5) -> Denoised:
    """One evaluation of a latent of two numbers."""
    return Denoised(
        error=tensor([error]).view(1, 1, 1, 2),
        old_error=tensor([old]).view(1, 1, 1, 2),
        scale=tensor([scale]),
        advantages=tensor([advantage]),
    )


def test_the_score_of_nft_by_hand() -> None:
    """β 0.5, r 0.75: errors of v⁺ (0.5, 2.5) and of v⁻ (1.5, 3.5); mean squares 3.25 and 7.25, mean sizes 1.5 and 2.5.

    With the scale 2 the losses are 4·3.25 / 3 and 4·7.25 / 5, and that of v_old is 4·5 / 4.
    """
    score = nft_score(denoised([0.0, 2.0], [1.0, 3.0]), LossOptions(nft_beta=0.5))
    assert score.tolist() == pytest.approx([5 - 0.75 * 13 / 3 - 0.25 * 5.8])


def test_the_score_of_awm_by_hand() -> None:
    """Mean squares of 5 and 2."""
    assert awm_score(denoised([0.0, 2.0], [1.0, 3.0]), LossOptions()).tolist() == [3.0]


@pytest.mark.parametrize("score", [nft_score, awm_score])
def test_a_score_at_the_policy_that_made_the_data_is_exactly_0(score: object) -> None:
    assert callable(score)
    found = score(denoised([0.3, -1.7], [0.3, -1.7]), LossOptions())
    assert float(found.abs()) < 1e-15


@pytest.mark.parametrize(("advantage", "sign"), [(2.0, 1), (0.5, 1), (-0.5, -1), (-3.0, -1)])
def test_the_gradient_of_nft_goes_to_good_images_and_away_from_bad_ones(advantage: float, sign: int) -> None:
    """At v_old it is that of the mean square error over its mean size, times 2r − 1: clipped at advantages of ± 1."""
    error = tensor([[1.0, 3.0]]).view(1, 1, 1, 2).requires_grad_()
    case = denoised([1.0, 3.0], [1.0, 3.0], scale=1.0, advantage=advantage)
    value = nft_score(Denoised(**vars(case) | {"error": error}), LossOptions(nft_beta=0.1))
    (gradient,) = torch.autograd.grad(value.sum(), error)
    expected = -sign * min(abs(advantage), 1.0) * 2 * 0.1 * np.array([1.0, 3.0]) / 2 / 2.0
    np.testing.assert_allclose(gradient.flatten().numpy(), expected)


def draws(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(count)]


def flow_schedule() -> FlowSchedule:
    sigma = tensor([0.9, 0.6, 0.3, 0.1])
    return FlowSchedule(
        timesteps=1000 * sigma, sigma=sigma, latent_weight=sigma, velocity_weight=sigma, std=sigma
    )


def test_nft_on_velocities_is_its_authors_code() -> None:
    """NVlabs/DiffusionNFT: x_0 of v⁺ and v⁻, each square error over its detached mean size; A is clipped at 1."""
    schedule, steps = flow_schedule(), torch.arange(4)
    x_0, noise, velocity, old = draws(4)
    advantages, beta = tensor([-2.0, -0.4, 0.3, 1.5]), 0.3
    sigma = schedule.sigma.view(-1, 1, 1, 1)
    x_t = schedule.noised(steps, x_0, noise)
    losses = []
    for prediction in (beta * velocity + (1 - beta) * old, (1 + beta) * old - beta * velocity):
        predicted = x_t - sigma * prediction
        size = (predicted - x_0).abs().mean(dim=(1, 2, 3), keepdim=True).clip(min=1e-5)
        losses.append(((predicted - x_0) ** 2 / size).mean(dim=(1, 2, 3)))
    r = ((advantages.clamp(-1, 1) / 1) / 2.0 + 0.5).clamp(0, 1)
    theirs = r * losses[0] + (1 - r) * losses[1]

    target = schedule.target(steps, x_0, noise)

    def ours(prediction: torch.Tensor) -> torch.Tensor:
        case = Denoised(
            error=prediction - target,
            old_error=old - target,
            scale=schedule.final_scale(steps),
            advantages=advantages,
        )
        return -nft_score(case, LossOptions(nft_beta=beta))

    size = (sigma * (old - target)).abs().mean(dim=(1, 2, 3))
    at_old = ((sigma * (old - target)) ** 2).mean(dim=(1, 2, 3)) / size
    torch.testing.assert_close(ours(velocity) + at_old, theirs, rtol=1e-12, atol=0)


def ddim_schedule(prediction_type: str) -> DDIMSchedule:
    config = {"beta_schedule": "scaled_linear", "prediction_type": prediction_type}
    schedule = build_ddim_schedule(ddim_config("DDIMScheduler", config), 4, 1.0)
    assert isinstance(schedule, DDIMSchedule)
    return schedule


def test_the_score_of_nft_is_the_same_for_every_prediction_type() -> None:
    """Of the same predicted x_0 as noise, as v and as x_0: v⁺ and v⁻ mix the same two policies."""
    steps = torch.arange(4)
    x_0, noise, predicted, old = draws(4)
    found = []
    for prediction_type in PREDICTION_TYPES:
        schedule = ddim_schedule(prediction_type)
        a, b = schedule.sqrt_alpha.view(-1, 1, 1, 1).double(), schedule.sqrt_beta.view(-1, 1, 1, 1).double()
        x_t = a * x_0 + b * noise

        def as_predicted(
            final: torch.Tensor, a: torch.Tensor = a, b: torch.Tensor = b, x_t: torch.Tensor = x_t
        ) -> dict[str, torch.Tensor]:
            implied = (x_t - a * final) / b
            return {"epsilon": implied, "v_prediction": a * implied - b * final, "sample": final}

        target = schedule.target(steps, x_0, noise)
        case = Denoised(
            error=as_predicted(predicted)[prediction_type] - target,
            old_error=as_predicted(old)[prediction_type] - target,
            scale=schedule.final_scale(steps).double(),
            advantages=tensor([-1.0, 0.2, 0.5, 3.0]),
        )
        found.append(nft_score(case, LossOptions(nft_beta=0.5)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)  # √(ᾱ) and √(1 − ᾱ) are of fp32
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-6)


def test_the_score_of_diffusion_dpo_is_half_the_mean_square_error() -> None:
    assert denoising_score(denoised([1.0, 3.0], [0.0, 0.0]), LossOptions()).tolist() == [-2.5]
