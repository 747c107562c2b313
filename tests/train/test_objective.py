"""Eq. 10 by hand, its identities and its symmetries."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppod_train.objectives import OBJECTIVES, Objective
from ppod_train.objectives.ppod import clipped_log_ratio, ppod_loss, ppod_mse_loss, preference_logits

OPTIONS = {"dpo_beta": 10.0, "log_ratio_clip": 0.002}


def random_batch(seed: int, scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """5 trajectories, 7 steps, 6 pairs that share trajectories."""
    generator = torch.Generator().manual_seed(seed)
    log_ratios = scale * torch.randn(5, 7, generator=generator, dtype=torch.float64)
    chosen, rejected = torch.tensor([0, 0, 1, 3, 4, 2]), torch.tensor([1, 2, 2, 0, 1, 4])
    return log_ratios, chosen, rejected, torch.ones(6, dtype=torch.float64)


def test_hand_computed_case() -> None:
    """clip 0.002, beta 100. Chosen: 0.001 + clip(0.005) = 0.003; rejected: -0.001 + clip(-0.03) = -0.003.
    D = 0.006, logit = 0.6, loss = log(1 + exp(-0.6)) = 0.437488; squared error (1 - 0.645656)² = 0.125560."""
    log_ratios = torch.tensor([[0.001, 0.005], [-0.001, -0.03]], dtype=torch.float64)
    pair = (torch.tensor([0]), torch.tensor([1]), torch.ones(1, dtype=torch.float64))
    options = {"dpo_beta": 100.0, "log_ratio_clip": 0.002}
    assert float(preference_logits(log_ratios, *pair[:2], **options)) == pytest.approx(0.6, abs=1e-12)
    assert float(ppod_loss(log_ratios, *pair, **options)) == pytest.approx(0.437488, abs=1e-6)
    assert float(ppod_mse_loss(log_ratios, *pair, **options)) == pytest.approx(0.125560, abs=1e-6)


def test_loss_at_the_reference() -> None:
    log_ratios, chosen, rejected, labels = random_batch(0, 0.0)
    assert float(ppod_loss(log_ratios, chosen, rejected, labels, **OPTIONS)) == math.log(2)
    assert float(ppod_mse_loss(log_ratios, chosen, rejected, labels, **OPTIONS)) == 0.25


def test_gradient_at_the_reference_is_half_beta_times_the_difference() -> None:
    log_ratios = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    loss = ppod_loss(log_ratios, torch.tensor([0]), torch.tensor([1]), torch.ones(1), **OPTIONS)
    loss.backward()
    assert log_ratios.grad is not None
    assert log_ratios.grad.tolist() == [[-5.0] * 3, [5.0] * 3]


@pytest.mark.parametrize("objective", OBJECTIVES.values())
def test_gradient_is_zero_outside_the_band_on_both_sides(objective: Objective) -> None:
    log_ratios = torch.tensor(
        [[0.003, -0.003, 0.001], [0.003, -0.003, 0.001]], dtype=torch.float64
    ).requires_grad_()
    loss = objective(log_ratios, torch.tensor([0]), torch.tensor([1]), torch.ones(1), **OPTIONS)
    (gradient,) = torch.autograd.grad(loss, log_ratios)
    assert (gradient != 0).tolist() == [[False, False, True]] * 2


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-5, 0.1))
def test_swapping_the_sides_negates_the_logit_and_is_the_opposite_label(seed: int, scale: float) -> None:
    log_ratios, chosen, rejected, labels = random_batch(seed, scale)
    logits = preference_logits(log_ratios, chosen, rejected, **OPTIONS)
    assert torch.equal(logits, -preference_logits(log_ratios, rejected, chosen, **OPTIONS))
    for objective in OBJECTIVES.values():
        swapped = objective(log_ratios, rejected, chosen, 1 - labels, **OPTIONS)
        torch.testing.assert_close(swapped, objective(log_ratios, chosen, rejected, labels, **OPTIONS))


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-5, 1.0))
def test_the_logit_never_passes_its_bound(seed: int, scale: float) -> None:
    log_ratios, chosen, rejected, _ = random_batch(seed, scale)
    logits = preference_logits(log_ratios, chosen, rejected, **OPTIONS)
    assert float(logits.abs().max()) <= 2 * 10.0 * 7 * 0.002 * (1 + 1e-12)


@given(seed=st.integers(0, 10_000))
def test_the_order_of_timesteps_does_not_matter(seed: int) -> None:
    log_ratios, chosen, rejected, _ = random_batch(seed, 0.002)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    permuted = preference_logits(log_ratios[:, order], chosen, rejected, **OPTIONS)
    torch.testing.assert_close(permuted, preference_logits(log_ratios, chosen, rejected, **OPTIONS))


def test_without_a_clip_it_is_eq_8() -> None:
    log_ratios, chosen, rejected, labels = random_batch(3, 1.0)
    margin = (log_ratios[chosen] - log_ratios[rejected]).sum(dim=1)
    expected = -torch.log(torch.sigmoid(0.1 * margin)).mean()
    loss = ppod_loss(log_ratios, chosen, rejected, labels, dpo_beta=0.1, log_ratio_clip=math.inf)
    torch.testing.assert_close(loss, expected)


def test_the_sum_over_timesteps_is_inside_the_sigmoid() -> None:
    """The per-step sigmoid of other methods has another gradient as soon as the margins are not zero."""
    log_ratios = torch.tensor([[0.5, 0.5], [-0.5, -0.5]], dtype=torch.float64).requires_grad_()
    loss = ppod_loss(
        log_ratios, torch.tensor([0]), torch.tensor([1]), torch.ones(1), dpo_beta=1.0, log_ratio_clip=math.inf
    )
    (gradient,) = torch.autograd.grad(loss, log_ratios)
    assert float(gradient[0, 0]) == pytest.approx(-1 / (1 + math.exp(2)))


def test_soft_labels_and_large_logits_are_finite() -> None:
    log_ratios = torch.tensor([[500.0], [-500.0]], dtype=torch.float64)
    pair = (torch.tensor([0]), torch.tensor([1]))
    loss = ppod_loss(
        log_ratios, *pair, torch.tensor([0.25], dtype=torch.float64), dpo_beta=10.0, log_ratio_clip=math.inf
    )
    assert float(loss) == pytest.approx(0.75 * 10_000)


def test_clip_is_on_the_log_ratio_and_symmetric() -> None:
    values = torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0])
    assert clipped_log_ratio(values, 0.1).tolist() == pytest.approx([-0.1, -0.1, 0.0, 0.1, 0.1])
