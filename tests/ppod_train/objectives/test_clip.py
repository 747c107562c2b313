"""The clip band: every mode and anchor by its formula, value and gradient."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppod_train.objectives import OBJECTIVES
from ppod_train.objectives.clip import clipped_log_ratio, preference_bounds, pull_back_loss
from ppod_train.objectives.ppod import ppod_loss
from ppod_train.objectives.targets import LossOptions, Targets
from tests.support.choices import CLIP_ANCHORS, CLIP_MODES
from tests.support.loss_cases import make_targets, random_case, tensor

CLIP = 0.002
OPTIONS = LossOptions(dpo_beta=10.0, log_ratio_clip=CLIP)
# The objectives whose clip is the band of `ppod_train.objectives.clip`.
CLIPPED = [name for name, objective in OBJECTIVES.items() if "clip_mode" in objective.reads]
# Of either side: above the band, below it, inside.
OUTSIDE = [[0.003, -0.003, 0.001], [0.003, -0.003, 0.001]]


def one_pair(shape: tuple[int, int] = (2, 3), label: float = 1.0, **fields: object) -> Targets:
    return make_targets(shape, chosen=[0], rejected=[1], labels=[label], **fields)


def gradient(objective: str, values: object, targets: Targets, options: LossOptions) -> torch.Tensor:
    log_ratios = tensor(values).requires_grad_()
    (found,) = torch.autograd.grad(OBJECTIVES[objective].loss(log_ratios, targets, options), log_ratios)
    return found


def test_clip_is_on_the_log_ratio_and_symmetric() -> None:
    values = torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0])
    assert clipped_log_ratio(values, 0.1).tolist() == pytest.approx([-0.1, -0.1, 0.0, 0.1, 0.1])
    assert clipped_log_ratio(values, 0.1, 0.5).tolist() == pytest.approx([0.4, 0.4, 0.4, 0.4, 0.6])
    assert torch.equal(clipped_log_ratio(values, math.inf), values)


@pytest.mark.parametrize("objective", CLIPPED)
@pytest.mark.parametrize("label", [1.0, 0.0, 0.3])
def test_paper_has_exactly_no_gradient_outside_the_band_on_both_sides(objective: str, label: float) -> None:
    found = gradient(objective, OUTSIDE, one_pair(label=label), OPTIONS)
    assert (found != 0).tolist() == [[False, False, True]] * 2


def test_a_step_on_the_edge_of_the_band_still_has_a_gradient() -> None:
    for mode in CLIP_MODES:
        found = gradient("ppod", [[CLIP], [-CLIP]], one_pair((2, 1)), replace(OPTIONS, clip_mode=mode))
        assert (found != 0).all()


@pytest.mark.parametrize("objective", CLIPPED)
def test_pessimistic_step_keeps_the_gradient_of_steps_on_the_wrong_side(objective: str) -> None:
    """Label 1: wrong is a chosen step below the band and a rejected one above it. Label 0: the other way round.
    (prdp's target is its margin, whatever the label.)"""
    options = replace(OPTIONS, clip_mode="pessimistic-step")
    wrong_with_label_1 = [[False, True, True], [True, False, True]]
    for label in (1.0, 0.0):
        targets = one_pair(label=label, margins=[1.0 if label else -1.0])
        expected = wrong_with_label_1 if label else wrong_with_label_1[::-1]
        assert (gradient(objective, OUTSIDE, targets, options) != 0).tolist() == expected


def test_pessimistic_step_by_hand() -> None:
    """Chosen: min(ℓ, c(ℓ)) = 0.002, -0.003, 0.001, sum 0; rejected: max(ℓ, c(ℓ)) = 0.003, -0.002, 0.001, sum 0.002.
    The lower bound is 10·(0 - 0.002); the upper one 10·(max of the chosen 0.002 - min of the rejected 0)."""
    lower, upper = preference_bounds(
        tensor(OUTSIDE), one_pair(), replace(OPTIONS, clip_mode="pessimistic-step")
    )
    assert lower.tolist() == pytest.approx([-0.02])
    assert upper.tolist() == pytest.approx([0.02])
    assert float(
        ppod_loss(tensor(OUTSIDE), one_pair(), replace(OPTIONS, clip_mode="pessimistic-step"))
    ) == pytest.approx(math.log(1 + math.exp(0.02)))


@pytest.mark.parametrize("objective", CLIPPED)
def test_pessimistic_pair_keeps_a_whole_pair_where_the_clip_flatters_it(objective: str) -> None:
    """Flattered: D = -0.01 + 0.001 unclipped, above it with the clip. Not flattered: the other way round."""
    options = replace(OPTIONS, clip_mode="pessimistic-pair")
    values = [[-0.010, 0.001], [0.001, -0.001]]
    assert (gradient(objective, values, one_pair((2, 2)), options) != 0).all()
    values = [[0.010, 0.001], [0.001, -0.001]]
    found = gradient(objective, values, one_pair((2, 2), margins=[0.001]), options)
    if objective == "prdp":  # the margin is passed already, so that the unclipped error is the larger one
        assert (found != 0).all()
    else:
        assert (found != 0).tolist() == [[False, True], [True, True]]


def test_pessimistic_pair_by_hand() -> None:
    """Unclipped D = (-0.010 + 0.001) - (0.001 - 0.001) = -0.009; clipped D = (-0.002 + 0.001) - 0 = -0.001."""
    lower, upper = preference_bounds(
        tensor([[-0.010, 0.001], [0.001, -0.001]]),
        one_pair((2, 2)),
        replace(OPTIONS, clip_mode="pessimistic-pair"),
    )
    assert (lower.tolist(), upper.tolist()) == (pytest.approx([-0.09]), pytest.approx([-0.01]))


@pytest.mark.parametrize("objective", CLIPPED)
@pytest.mark.parametrize("mode", CLIP_MODES)
@given(seed=st.integers(0, 10_000))
def test_all_modes_are_paper_inside_the_band(objective: str, mode: str, seed: int) -> None:
    log_ratios, targets = random_case(seed, 0.0005)
    options = replace(OPTIONS, log_ratio_clip=0.01, pull_back=3.0)
    found = gradient(objective, log_ratios, targets, replace(options, clip_mode=mode))
    paper = gradient(objective, log_ratios, targets, replace(options, pull_back=0.0))
    torch.testing.assert_close(found, paper, rtol=1e-14, atol=1e-15)
    loss = OBJECTIVES[objective].loss
    assert float(loss(log_ratios, targets, replace(options, clip_mode=mode))) == float(
        loss(log_ratios, targets, replace(options, pull_back=0.0))
    )


@pytest.mark.parametrize("mode", CLIP_MODES)
@pytest.mark.parametrize("anchor", CLIP_ANCHORS)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-5, 0.1))
def test_the_bounds_of_every_mode_enclose_the_paper_value(
    mode: str, anchor: str, seed: int, scale: float
) -> None:
    log_ratios, targets = random_case(seed, scale)
    options = replace(OPTIONS, clip_anchor=anchor)
    lower, upper = preference_bounds(log_ratios, targets, replace(options, clip_mode=mode))
    paper, same = preference_bounds(log_ratios, targets, options)
    assert torch.equal(paper, same)
    rounding = 1e-12 * (1 + scale)
    assert bool((lower <= paper + rounding).all()) and bool((paper <= upper + rounding).all())


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-5, 1.0))
def test_the_logit_never_passes_its_bound(seed: int, scale: float) -> None:
    log_ratios, targets = random_case(seed, scale)
    logits, _ = preference_bounds(log_ratios, targets, OPTIONS)
    assert float(logits.abs().max()) <= 2 * 10.0 * 7 * CLIP * (1 + 1e-12)
    logits, _ = preference_bounds(log_ratios, targets, replace(OPTIONS, clip_anchor="stage"))
    sums = 10.0 * targets.anchors.sum(dim=1)
    around = sums[targets.chosen] - sums[targets.rejected]
    assert float((logits - around).abs().max()) <= 2 * 10.0 * 7 * CLIP * (1 + 1e-9)


@given(seed=st.integers(0, 10_000))
def test_the_order_of_timesteps_does_not_matter(seed: int) -> None:
    log_ratios, targets = random_case(seed, CLIP)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    for mode in CLIP_MODES:
        options = replace(OPTIONS, clip_mode=mode)
        for permuted, plain in zip(
            preference_bounds(log_ratios[:, order], targets, options),
            preference_bounds(log_ratios, targets, options),
            strict=True,
        ):
            torch.testing.assert_close(permuted, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", CLIPPED)
def test_the_stage_anchor_centres_the_band_at_the_policy_that_made_the_data(objective: str) -> None:
    """A gradient exactly where |ℓ - a| ≤ ε; the anchor `reference` does not look at a."""
    anchors = [[0.010, -0.010, 0.0], [0.010, -0.010, 0.0]]
    values = [[0.0115, -0.001, 0.001], [0.0085, -0.0125, -0.003]]
    targets = one_pair(anchors=anchors)
    stage = gradient(objective, values, targets, replace(OPTIONS, clip_anchor="stage"))
    assert (stage != 0).tolist() == [[True, False, True], [True, False, False]]
    reference = gradient(objective, values, targets, OPTIONS)
    assert (reference != 0).tolist() == [[False, True, True], [False, False, False]]


@given(seed=st.integers(0, 10_000))
def test_at_the_stage_policy_nothing_is_clipped_by_the_stage_anchor(seed: int) -> None:
    """There D is the anchors' own difference, however far the stage is from the reference."""
    _, targets = random_case(seed, 1.0)
    for mode in CLIP_MODES:
        options = replace(OPTIONS, clip_anchor="stage", clip_mode=mode)
        for bound in preference_bounds(targets.anchors, targets, options):
            sums = targets.anchors.sum(dim=1)
            torch.testing.assert_close(bound, 10.0 * (sums[targets.chosen] - sums[targets.rejected]))
        assert bool((gradient("ppod", targets.anchors, targets, options) != 0).all())


def test_a_subset_of_timesteps_is_scaled_up() -> None:
    log_ratios, targets = random_case(0, 0.01)
    for mode in CLIP_MODES:
        options = replace(OPTIONS, clip_mode=mode, pull_back=1.0)
        scaled = replace(options, timestep_scale=4.0)
        for bound, plain in zip(
            preference_bounds(log_ratios, targets, scaled),
            preference_bounds(log_ratios, targets, options),
            strict=True,
        ):
            torch.testing.assert_close(bound, 4 * plain)
        torch.testing.assert_close(
            pull_back_loss(log_ratios, targets, scaled), 4 * pull_back_loss(log_ratios, targets, options)
        )


def test_pull_back_by_hand() -> None:
    """λ 0.5, beta 10, clip 0.002: the steps are 0.001 and 0.003 outside, 2 trajectories: 0.5·10·0.004 / 2 = 0.01."""
    targets = one_pair((2, 2))
    options = replace(OPTIONS, pull_back=0.5)
    assert float(pull_back_loss(tensor([[0.003, 0.001], [-0.005, 0.0]]), targets, options)) == pytest.approx(
        0.01
    )
    assert float(pull_back_loss(tensor([[0.002, -0.002], [0.0, 0.001]]), targets, options)) == 0.0


@pytest.mark.parametrize("objective", CLIPPED)
@pytest.mark.parametrize("anchor", CLIP_ANCHORS)
def test_pull_back_leads_back_with_a_constant_force(objective: str, anchor: str) -> None:
    """Outside the band the force is λ·beta / U towards it, near and far alike; inside it there is none of it."""
    anchors = tensor([[0.1, 0.1, 0.1], [-0.1, -0.1, -0.1]])
    values = tensor([[0.003, -0.5, 0.001], [7.0, -0.003, 0.001]])
    targets = one_pair(anchors=anchors)
    options = replace(OPTIONS, clip_anchor=anchor, pull_back=2.0)
    shifted = values + (anchors if anchor == "stage" else 0.0)
    found = gradient(objective, shifted, targets, options)
    plain = gradient(objective, shifted, targets, replace(options, pull_back=0.0))
    assert (found - plain).tolist() == [[10.0, -10.0, 0.0], [10.0, -10.0, 0.0]]


def test_pull_back_of_1_is_as_strong_as_a_pair_at_its_start() -> None:
    start = gradient("ppod", torch.zeros(2, 3), one_pair(), OPTIONS)
    outside = gradient("ppod", torch.full((2, 3), 1.0), one_pair(), replace(OPTIONS, pull_back=1.0))
    assert start.abs().tolist() == outside.abs().tolist() == [[5.0] * 3] * 2
