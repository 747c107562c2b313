"""Every objective by hand, at the reference, against its authors' listing or code, and its symmetries."""

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppod_train.objectives import OBJECTIVES
from ppod_train.objectives.targets import LossOptions, Targets
from tests.support.choices import CLIP_MODES
from tests.support.loss_cases import make_targets, random_case, tensor

# A chosen and a rejected trajectory of two steps; clip 0.002, beta 100, a margin of 1.5 at temperature 2.
LOG_RATIOS = [[0.001, 0.005], [-0.001, -0.03]]
OPTIONS = LossOptions(dpo_beta=100.0, log_ratio_clip=0.002, reward_temperature=2.0)
ADVANTAGES = [[2.0, 2.0], [1.0, 1.0]]

# objective -> (options beside these, advantages, the loss to six digits, worked out in the comment).
CASES: dict[str, tuple[dict[str, Any], list[list[float]] | None, float]] = {
    # D = (0.001 + 0.002) - (-0.001 - 0.002) = 0.006, logit 0.6; ln(1 + exp(-0.6))
    "ppod": ({}, None, 0.437488),
    # (1 - 1 / (1 + exp(-0.6)))² = (1 - 0.645656)²
    "ppod-mse": ({}, None, 0.125560),
    # wanted 1.5 / 2 = 0.75; with the clip 0.6, without it 100·(0.006 + 0.031) = 3.7; the larger of 0.15² and 2.95²
    "prdp": ({"clip_mode": "pessimistic-pair"}, None, 8.7025),
    # 100·(0.001 + 0.001) = 0.2; 100·(ln 1.002 - ln 0.998) = 0.4; mean of ln(1 + exp(-0.2)), ln(1 + exp(-0.4))
    "d3po": ({}, None, (0.598139 + 0.513015) / 2),
    # 100·0.002 = 0.2; 100·0.035 = 3.5; mean of ln(1 + exp(-0.2)), ln(1 + exp(-3.5))
    "diffusion-dpo": ({}, None, (0.598139 + 0.029750) / 2),
    # the ratios 1.0010005, 1.0050125 -> 1.002 and 0.9990005, 0.9704455, which stays: the smaller of it and 0.998
    "ddpo": ({}, ADVANTAGES, -(2.002001 + 2.004 + 0.9990005 + 0.9704455) / 4),
    # the same, but the clip cuts either way: 0.9704455 -> 0.998
    "dpok": ({}, ADVANTAGES, -(2.002001 + 2.004 + 0.9990005 + 0.998) / 4),
    # scores are minus the losses: -(0.001 + 0.005 - 0.001 - 0.03) / 4
    "diffusion-nft": ({}, ADVANTAGES, 0.00625),
    # as ddpo, whose ratio is to the same policy here
    "awm": ({}, ADVANTAGES, -(2.002001 + 2.004 + 0.9990005 + 0.9704455) / 4),
    # (2·0.006 - 0.031) / 4
    "sft": ({}, ADVANTAGES, 0.00475),
    # the better one alone: 0.006 / 4
    "sft-best": ({}, [[1.0, 1.0], [0.0, 0.0]], -0.0015),
}


def one_pair(shape: tuple[int, int] = (2, 2), label: float = 1.0, **fields: Any) -> Targets:
    return make_targets(shape, chosen=[0], rejected=[1], labels=[label], **fields)


def loss(objective: str, values: Any, targets: Targets, **changes: Any) -> float:
    return float(OBJECTIVES[objective].loss(tensor(values), targets, replace(OPTIONS, **changes)))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_hand_computed_case(objective: str) -> None:
    changes, advantages, expected = CASES[objective]
    targets = one_pair(margins=[1.5], advantages=advantages)
    assert loss(objective, LOG_RATIOS, targets, **changes) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("ppod", math.log(2)), ("d3po", math.log(2)), ("diffusion-dpo", math.log(2))],
)
@given(seed=st.integers(0, 100))
def test_a_preference_loss_at_the_reference_is_ln_2_whatever_the_labels(
    objective: str, expected: float, seed: int
) -> None:
    _, targets = random_case(seed, 0.0)
    for mode in CLIP_MODES:
        assert loss(objective, torch.zeros(5, 7), targets, clip_mode=mode) == pytest.approx(
            expected, abs=1e-15
        )


def test_the_other_losses_at_the_reference() -> None:
    """Squared error 1/4; likelihood ratio 0; minus the mean advantage; the mean of (Δr/τ)²."""
    _, targets = random_case(1, 0.0)
    zeros = torch.zeros(5, 7)
    hard = make_targets((5, 7), chosen=[0, 1, 3], rejected=[1, 2, 0], labels=[1.0, 0.0, 1.0])
    assert loss("ppod-mse", zeros, hard) == 0.25
    assert loss("sft", zeros, targets) == loss("sft-best", zeros, targets) == 0.0
    mean = float(targets.advantages.mean())
    assert loss("ddpo", zeros, targets) == pytest.approx(-mean)
    assert loss("dpok", zeros, targets) == pytest.approx(-mean)
    assert loss("prdp", zeros, targets) == pytest.approx(float((targets.margins**2).mean()) / 4)


def test_gradient_at_the_reference_is_half_beta_times_the_difference() -> None:
    log_ratios = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    OBJECTIVES["ppod"].loss(log_ratios, one_pair((2, 3)), OPTIONS).backward()
    assert log_ratios.grad is not None
    assert log_ratios.grad.tolist() == [[-50.0] * 3, [50.0] * 3]


def swapped(targets: Targets) -> Targets:
    """The same preferences, told the other way round."""
    return replace(
        targets,
        chosen=targets.rejected,
        rejected=targets.chosen,
        labels=1 - targets.labels,
        margins=-targets.margins,
    )


@pytest.mark.parametrize("objective", [name for name, objective in OBJECTIVES.items() if objective.on_pairs])
@pytest.mark.parametrize("anchor", ["reference", "stage"])
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-5, 0.1))
def test_swapping_the_sides_is_the_opposite_label(
    objective: str, anchor: str, seed: int, scale: float
) -> None:
    log_ratios, targets = random_case(seed, scale)
    for mode in CLIP_MODES:
        changes: dict[str, Any] = {"clip_mode": mode, "clip_anchor": anchor, "pull_back": 0.5}
        assert loss(objective, log_ratios, swapped(targets), **changes) == pytest.approx(
            loss(objective, log_ratios, targets, **changes), rel=1e-12
        )


@pytest.mark.parametrize("objective", ["ppod", "ppod-mse", "prdp", "d3po", "diffusion-dpo"])
@given(seed=st.integers(0, 10_000), shift=st.floats(-0.5, 0.5))
def test_shifting_both_log_ratios_of_a_step_changes_nothing_without_a_clip(
    objective: str, seed: int, shift: float
) -> None:
    """What all images have in common, their prompt's likelihood for instance, is no preference."""
    log_ratios, targets = random_case(seed, 0.01)
    shifted = log_ratios.clone()
    shifted[:, seed % 7] += shift
    changes = {"log_ratio_clip": math.inf}
    assert loss(objective, shifted, targets, **changes) == pytest.approx(
        loss(objective, log_ratios, targets, **changes), rel=1e-10
    )


@given(seed=st.integers(0, 10_000), shift=st.floats(-0.5, 0.5))
def test_with_the_stage_anchor_the_band_moves_along(seed: int, shift: float) -> None:
    """Log-ratios and anchors shifted alike: the same loss, in every mode."""
    log_ratios, targets = random_case(seed, 0.01)
    for mode in CLIP_MODES:
        changes: dict[str, Any] = {"clip_mode": mode, "clip_anchor": "stage", "pull_back": 0.5}
        moved = replace(targets, anchors=targets.anchors + shift)
        assert loss("ppod", log_ratios + shift, moved, **changes) == pytest.approx(
            loss("ppod", log_ratios, targets, **changes), rel=1e-9
        )


def test_without_a_clip_ppod_is_eq_8() -> None:
    log_ratios, targets = random_case(3, 1.0)
    targets = replace(targets, labels=torch.ones(6, dtype=torch.float64))
    margin = (log_ratios[targets.chosen] - log_ratios[targets.rejected]).sum(dim=1)
    expected = float(-torch.log(torch.sigmoid(0.1 * margin)).mean())
    for mode in CLIP_MODES:
        found = loss("ppod", log_ratios, targets, dpo_beta=0.1, log_ratio_clip=math.inf, clip_mode=mode)
        assert found == pytest.approx(expected)


def test_the_sum_over_timesteps_is_inside_the_sigmoid() -> None:
    """The per-step sigmoid of D3PO has another gradient as soon as the margins are not zero, and bounds the loss of the
    mean step from above (Jensen)."""
    log_ratios = tensor([[0.5, 0.2], [-0.5, -0.2]]).requires_grad_()
    options = LossOptions(dpo_beta=1.0, log_ratio_clip=math.inf)
    (gradient,) = torch.autograd.grad(OBJECTIVES["ppod"].loss(log_ratios, one_pair(), options), log_ratios)
    assert float(gradient[0, 0]) == pytest.approx(-1 / (1 + math.exp(1.4)))
    (gradient,) = torch.autograd.grad(OBJECTIVES["d3po"].loss(log_ratios, one_pair(), options), log_ratios)
    assert float(gradient[0, 0]) == pytest.approx(-1 / (1 + math.exp(1.0)) / 2)
    values = log_ratios.detach()
    of_the_mean = loss("ppod", values, one_pair(), dpo_beta=0.5, log_ratio_clip=math.inf)
    assert of_the_mean < loss("d3po", values, one_pair(), dpo_beta=1.0, log_ratio_clip=math.inf)


@pytest.mark.parametrize("objective", ["ppod", "ppod-mse", "d3po", "diffusion-dpo"])
@pytest.mark.parametrize("label", [0.25, 0.5, 0.9])
def test_a_soft_label_is_met_where_the_logit_is_its_log_odds(objective: str, label: float) -> None:
    """One step, no clip: the loss is least exactly where σ(logit) = label, and there its gradient is 0."""
    log_odds = math.log(label / (1 - label))
    log_ratios = tensor([[log_odds / 2], [-log_odds / 2]]).requires_grad_()
    options = LossOptions(dpo_beta=1.0, log_ratio_clip=math.inf)
    value = OBJECTIVES[objective].loss(log_ratios, one_pair((2, 1), label), options)
    (gradient,) = torch.autograd.grad(value, log_ratios)
    assert gradient.abs().max() < 1e-15
    entropy = -label * math.log(label) - (1 - label) * math.log(1 - label)
    assert float(value.detach()) == pytest.approx(0.0 if objective == "ppod-mse" else entropy, abs=1e-15)


def test_soft_labels_and_large_logits_are_finite() -> None:
    changes: dict[str, Any] = {"dpo_beta": 10.0, "log_ratio_clip": math.inf}
    targets = one_pair((2, 1), 0.25)
    assert loss("ppod", [[500.0], [-500.0]], targets, **changes) == pytest.approx(0.75 * 10_000)
    assert loss("d3po", [[500.0], [-500.0]], targets, **changes) == pytest.approx(0.75 * 10_000)


@pytest.mark.parametrize("seed", range(5))
def test_prdp_is_its_papers_listing(seed: int) -> None:
    """Deng et al. 2024, App. G, in NumPy: averages over T, Δr in units of β, all pairs of a prompt with Δr > 0, a clip
    around the old policy. Ours is (dpo_beta·T)² times theirs with β = temperature·T·dpo_beta."""
    random = np.random.default_rng(seed)
    logp, logp_ref, logp_old = (0.01 * random.standard_normal((6, 4)) for _ in range(3))
    rewards, clip, dpo_beta, temperature = random.standard_normal(6), 0.005, 30.0, 0.7
    beta = temperature * 4 * dpo_beta

    lr, lr_old = logp - logp_ref, logp_old - logp_ref
    lr_clip = np.clip(lr, lr_old - clip, lr_old + clip)
    lr, lr_clip = lr.mean(axis=1), lr_clip.mean(axis=1)
    errors = []
    for i in range(6):
        for j in range(6):
            if (dr := rewards[i] - rewards[j]) > 0:
                d, d_clip = lr[i] - lr[j], lr_clip[i] - lr_clip[j]
                errors.append(max((d - dr / beta) ** 2, (d_clip - dr / beta) ** 2))
    theirs = np.mean(errors)

    pairs = [(i, j) if rewards[i] > rewards[j] else (j, i) for i, j in combinations(range(6), 2)]
    targets = make_targets(
        (6, 4),
        chosen=[i for i, _ in pairs],
        rejected=[j for _, j in pairs],
        margins=[rewards[i] - rewards[j] for i, j in pairs],
        anchors=torch.from_numpy(logp_old - logp_ref),
    )
    ours = loss(
        "prdp",
        torch.from_numpy(logp - logp_ref),
        targets,
        dpo_beta=dpo_beta,
        log_ratio_clip=clip,
        clip_anchor="stage",
        clip_mode="pessimistic-pair",
        reward_temperature=temperature,
    )
    assert ours == pytest.approx((dpo_beta * 4) ** 2 * theirs, rel=1e-10)


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-4, 1.0))
def test_d3po_is_its_authors_code(seed: int, scale: float) -> None:
    """yk7333/d3po: the ratio clamped to 1 ± ε, then -log σ(β·log r_w - β·log r_l), one step at a time."""
    log_ratios, targets = random_case(seed, scale)
    ratio = torch.exp(log_ratios).clamp(0.9, 1.1)
    logits = 0.1 * torch.log(ratio[targets.chosen]) - 0.1 * torch.log(ratio[targets.rejected])
    expected = -torch.log(torch.sigmoid(logits)).mean()
    hard = replace(targets, labels=torch.ones(6, dtype=torch.float64))
    assert loss("d3po", log_ratios, hard, dpo_beta=0.1, log_ratio_clip=0.1) == pytest.approx(
        float(expected), rel=1e-10
    )


@given(seed=st.integers(0, 10_000))
def test_diffusion_dpo_is_its_authors_code(seed: int) -> None:
    """SalesforceAIResearch/DiffusionDPO: inside = -0.5·β·(model difference - reference difference) of mean squares."""
    _, targets = random_case(seed, 1.0)
    generator = torch.Generator().manual_seed(seed)
    model, ref = torch.rand(2, 5, 7, generator=generator, dtype=torch.float64)
    model_diff = model[targets.chosen] - model[targets.rejected]
    ref_diff = ref[targets.chosen] - ref[targets.rejected]
    expected = -torch.nn.functional.logsigmoid(-0.5 * 20.0 * (model_diff - ref_diff)).mean()
    hard = replace(targets, labels=torch.ones(6, dtype=torch.float64))
    assert loss("diffusion-dpo", -0.5 * (model - ref), hard, dpo_beta=20.0) == pytest.approx(float(expected))


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-4, 0.3))
def test_policy_gradients_are_their_authors_code(seed: int, scale: float) -> None:
    """kvablack/ddpo-pytorch: the maximum of two losses; google-research/dpok: a clamp alone. ρ is to the old policy."""
    log_ratios, targets = random_case(seed, scale)
    ratio, advantages = torch.exp(log_ratios - targets.anchors), targets.advantages
    clipped = torch.clamp(ratio, 1.0 - 0.05, 1.0 + 0.05)
    ddpo = torch.mean(torch.maximum(-advantages * ratio, -advantages * clipped))
    dpok = torch.mean(-advantages * clipped)
    assert loss("ddpo", log_ratios, targets, log_ratio_clip=0.05) == pytest.approx(float(ddpo), rel=1e-10)
    assert loss("dpok", log_ratios, targets, log_ratio_clip=0.05) == pytest.approx(float(dpok), rel=1e-10)


def test_ddpo_keeps_the_gradient_on_the_wrong_side_and_dpok_does_not() -> None:
    """Above and below the band and inside it, once with a good and once with a bad image."""
    values = [[0.1, -0.1, 0.01]] * 2
    targets = make_targets((2, 3), advantages=[[1.0] * 3, [-1.0] * 3])
    options = LossOptions(log_ratio_clip=0.05)
    for objective, expected in (
        ("ddpo", [[False, True, True], [True, False, True]]),
        ("dpok", [[False, False, True]] * 2),
    ):
        log_ratios = tensor(values).requires_grad_()
        (found,) = torch.autograd.grad(OBJECTIVES[objective].loss(log_ratios, targets, options), log_ratios)
        assert (found != 0).tolist() == expected


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_without_pairs_or_with_them_every_loss_is_a_finite_scalar_with_a_gradient(objective: str) -> None:
    log_ratios, targets = random_case(5, 0.001)
    log_ratios.requires_grad_()
    value = OBJECTIVES[objective].loss(log_ratios, targets, LossOptions(dpo_beta=10.0))
    (gradient,) = torch.autograd.grad(value, log_ratios)
    assert value.shape == () and bool(torch.isfinite(value)) and bool((gradient != 0).all())
