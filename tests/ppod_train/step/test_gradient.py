"""Two passes, one pass and plain autograd give the same gradient: every objective and clip mode, with and without KL,
with trajectories that pairs share."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from ppod_train.objectives import OBJECTIVES
from ppod_train.objectives.clip import band_centre, band_regions
from ppod_train.objectives.targets import LossOptions, Targets
from ppod_train.step.bounded_pass import by_group_gradient, by_trajectory_gradient
from ppod_train.step.gradient import (
    Evaluate,
    Gradient,
    Loss,
    StepValues,
    one_pass_gradient,
    two_pass_gradient,
)
from ppod_train.step.groups import evaluation_groups
from tests.support.choices import CLIP_ANCHORS, CLIP_MODES
from tests.support.loss_cases import make_targets

Toy = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
OPTIONS = LossOptions(dpo_beta=3.0, log_ratio_clip=0.3)


def toy_network(
    weight: torch.Tensor, features: torch.Tensor, calls: list[int] | None = None, *, with_kl: bool = False
) -> Evaluate:
    """A nonlinear "network" of one weight vector: features [U, T, D]; its KL is ½·(output - 0.1)²."""

    def call(rows: torch.Tensor, columns: torch.Tensor) -> StepValues:
        if calls is not None:
            calls.append(len(rows))
        output = torch.tanh(features[rows, columns] @ weight)
        return StepValues(output, 0.5 * (output - 0.1) ** 2 if with_kl else None)

    return call


@pytest.fixture
def toy() -> Toy:
    return make_toy()


def make_toy() -> Toy:
    """Weights [D], features [U, T, D], the reference's log-probabilities [U, T]."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 5, 3, generator=generator, dtype=torch.float64)
    weight = (0.1 * torch.randn(3, generator=generator, dtype=torch.float64)).requires_grad_()
    return weight, features, torch.zeros(6, 5, dtype=torch.float64)


def six_trajectories() -> Targets:
    """Five pairs of six trajectories, which connect 0 to 2 and 3 to 5, with soft labels; advantages of all kinds;
    anchors at which some steps of the toy are inside each band and others are not."""
    weight, features, _ = make_toy()
    generator = torch.Generator().manual_seed(1)
    advantages = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    advantages[2] = 0.0
    return make_targets(
        (6, 5),
        chosen=[0, 0, 1, 4, 5],
        rejected=[1, 2, 2, 3, 4],
        labels=[1, 1, 0.5, 1, 0.9],
        margins=[0.1, 2.0, 1.0, 0.5, 0.3],
        anchors=torch.tanh(features @ weight) + 0.1 * torch.randn(6, 5, generator=generator),
        advantages=advantages,
    )


def loss_of(objective: str, options: LossOptions = OPTIONS, **changes: Any) -> Loss:
    return partial(
        OBJECTIVES[objective].loss, targets=six_trajectories(), options=replace(options, **changes)
    )


# Every objective, with every combination of the clip options that it reads.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    (name, {"clip_mode": mode, "clip_anchor": anchor, "pull_back": pull_back})
    for name, objective in OBJECTIVES.items()
    for mode in (CLIP_MODES if "clip_mode" in objective.reads else ["paper"])
    for anchor in (CLIP_ANCHORS if "clip_anchor" in objective.reads else ["reference"])
    for pull_back in ((0.0, 0.7) if "pull_back" in objective.reads else [0.0])
]


def ways(
    weight: torch.Tensor, objective: str, options: LossOptions, kl_weight: float
) -> list[Callable[..., Gradient]]:
    """Return every way to the gradient of an objective: arguments (evaluate, reference, loss, chunk_size, workers)."""
    found: list[Callable[..., Gradient]] = [
        partial(one_pass_gradient, kl_weight=kl_weight),
        partial(two_pass_gradient, kl_weight=kl_weight),
    ]
    targets = six_trajectories()
    couples, pairs = OBJECTIVES[objective].couples, torch.stack([targets.chosen, targets.rejected])

    def by_group(*inputs: Any, chunk_size: int, **given: Any) -> Gradient:
        groups = evaluation_groups(couples, inputs[1], pairs, chunk_size=chunk_size)
        return by_group_gradient(*inputs, groups=groups, kl_weight=kl_weight, **given)

    found.append(by_group)
    if couples == "trajectory" and not kl_weight:
        centre = band_centre(targets, options)
        found.append(
            partial(
                by_trajectory_gradient,
                parameters=[weight],
                regions=lambda ratios, *at: band_regions(ratios, centre[at], options),
                step_weights=torch.ones(5, dtype=torch.float64),
            )
        )
    return found


@pytest.mark.parametrize(("objective", "changes"), VARIANTS)
@pytest.mark.parametrize("log_ratio_clip", [0.05, 0.3, float("inf")])
@pytest.mark.parametrize("kl_weight", [0.0, 2.0])
def test_every_way_gives_the_gradient_of_autograd_in_float64(
    toy: Toy, objective: str, changes: dict[str, Any], log_ratio_clip: float, kl_weight: float
) -> None:
    weight, features, reference = toy
    loss = loss_of(objective, **changes, log_ratio_clip=log_ratio_clip)
    output = torch.tanh(features @ weight)
    total = loss(output - reference) + kl_weight * (0.5 * (output - 0.1) ** 2).mean()
    (expected,) = torch.autograd.grad(total, weight)
    assert float(expected.abs().max()) > 0
    evaluate = toy_network(weight, features, with_kl=kl_weight > 0)
    options = replace(OPTIONS, **changes, log_ratio_clip=log_ratio_clip)
    for take in ways(weight, objective, options, kl_weight):
        for chunk_size in (1, 4, 30):
            weight.grad = None
            result = take(evaluate, reference, loss, chunk_size=chunk_size)
            torch.testing.assert_close(weight.grad, expected, rtol=1e-12, atol=1e-14)
            assert result.loss == pytest.approx(float(total.detach()), rel=1e-12)
            if kl_weight:
                assert result.kl == pytest.approx(float((0.5 * (output - 0.1) ** 2).mean().detach()))
            else:
                assert result.kl is None


@pytest.mark.parametrize(("objective", "changes"), VARIANTS)
@pytest.mark.parametrize("kl_weight", [0.0, 2.0])
def test_finite_differences_agree(
    toy: Toy, objective: str, changes: dict[str, Any], kl_weight: float
) -> None:
    weight, features, reference = toy
    loss = loss_of(objective, **changes)

    def total(at: torch.Tensor) -> float:
        output = torch.tanh(features @ at)
        return float(loss(output - reference) + kl_weight * (0.5 * (output - 0.1) ** 2).mean())

    evaluate = toy_network(weight, features, with_kl=kl_weight > 0)
    two_pass_gradient(evaluate, reference, loss, chunk_size=7, kl_weight=kl_weight)
    assert weight.grad is not None
    for i in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[i] = 1e-6
        ends = [total(weight.detach() + s) for s in (shift, -shift)]
        assert float(weight.grad[i]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_gradients_add_up_over_calls(toy: Toy) -> None:
    """As autograd's do: a caller may accumulate several batches."""
    weight, features, reference = toy
    evaluate = toy_network(weight, features)
    for take in (one_pass_gradient, two_pass_gradient):
        weight.grad = None
        take(evaluate, reference, loss_of("ppod"), chunk_size=8)
        assert weight.grad is not None
        once = weight.grad.clone()
        take(evaluate, reference, loss_of("ppod"), chunk_size=8)
        torch.testing.assert_close(weight.grad, 2 * once)


def test_clipped_steps_are_not_evaluated_again(toy: Toy) -> None:
    weight, features, reference = toy
    calls: list[int] = []
    loss = loss_of("ppod", log_ratio_clip=0.05)
    gradient = two_pass_gradient(toy_network(weight, features, calls), reference, loss, chunk_size=8)
    in_band = int((gradient.log_ratios.abs() <= 0.05).sum())
    assert 0 < in_band < 30
    assert sum(calls) == 30 + in_band
    assert gradient.backward_share == pytest.approx(in_band / 30)
    assert float((gradient.weights != 0).double().mean()) == pytest.approx(in_band / 30)


def test_a_kl_term_brings_clipped_steps_back(toy: Toy) -> None:
    """Every step has a KL, so every step is evaluated again; the clip still gives exactly 0 of its own."""
    weight, features, reference = toy
    calls: list[int] = []
    gradient = two_pass_gradient(
        toy_network(weight, features, calls, with_kl=True),
        reference,
        loss_of("ppod", log_ratio_clip=0.05),
        chunk_size=8,
        kl_weight=1.0,
    )
    assert sum(calls) == 60 and gradient.backward_share == 1.0
    assert bool((gradient.weights[gradient.log_ratios.abs() > 0.05] == 0).all())


def test_a_trajectory_without_an_advantage_is_not_evaluated_again(toy: Toy) -> None:
    weight, features, reference = toy
    calls: list[int] = []
    two_pass_gradient(toy_network(weight, features, calls), reference, loss_of("sft"), chunk_size=8)
    assert sum(calls) == 30 + 25


def test_nothing_in_the_band_is_a_gradient_of_nothing(toy: Toy) -> None:
    weight, features, _ = toy
    far = torch.full((6, 5), 9.0, dtype=torch.float64)
    result = two_pass_gradient(toy_network(weight, features), far, loss_of("ppod"), chunk_size=8)
    assert weight.grad is None and result.backward_share == 0.0
    one_pass_gradient(toy_network(weight, features), far, loss_of("ppod"), chunk_size=8)
    assert weight.grad is not None and weight.grad.tolist() == [0.0] * 3


@pytest.mark.parametrize("take", [one_pass_gradient, two_pass_gradient])
def test_each_trajectory_is_evaluated_once_however_many_pairs(toy: Toy, take: Callable[..., object]) -> None:
    """All 15 pairs of 6 trajectories cost as many evaluations as 3 disjoint pairs."""
    weight, features, reference = toy
    everything = torch.combinations(torch.arange(6))
    costs = []
    for chosen, rejected in [
        (everything[:, 0].tolist(), everything[:, 1].tolist()),
        ([0, 2, 4], [1, 3, 5]),
    ]:
        calls: list[int] = []
        loss = partial(
            OBJECTIVES["ppod"].loss,
            targets=make_targets((6, 5), chosen=chosen, rejected=rejected),
            options=LossOptions(dpo_beta=1.0, log_ratio_clip=float("inf")),
        )
        take(toy_network(weight, features, calls), reference, loss, chunk_size=8)
        costs.append(sum(calls))
    assert costs[0] == costs[1] == (30 if take is one_pass_gradient else 60)
