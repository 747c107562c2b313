"""Two passes, one pass and plain autograd give the same gradient, for every objective and for shared trajectories."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ppod_data.dataset import Dataset
from ppod_data.diffusion.model import DiffusionModel
from ppod_data.generate import prepare_sampler
from ppod_train.batches import load_batch, open_preferences
from ppod_train.gradient import Gradient, LogProbs, one_pass_gradient, two_pass_gradient
from ppod_train.log_probs import batch_log_probs
from ppod_train.objectives import OBJECTIVES
from ppod_train.policy import trainable_parameters


def toy_log_probs(weight: torch.Tensor, features: torch.Tensor, calls: list[int] | None = None) -> LogProbs:
    """A nonlinear "network" of one weight vector: features [U, T, D]."""

    def call(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        if calls is not None:
            calls.append(len(rows))
        return torch.tanh(features[rows, columns] @ weight)

    return call


@pytest.fixture
def toy() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 5, 3, generator=generator, dtype=torch.float64)
    weight = (0.1 * torch.randn(3, generator=generator, dtype=torch.float64)).requires_grad_()
    return weight, features, torch.zeros(6, 5, dtype=torch.float64)


def pairs_of_six() -> dict[str, torch.Tensor]:
    return {
        "chosen": torch.tensor([0, 0, 1, 4, 5]),
        "rejected": torch.tensor([1, 2, 3, 0, 2]),
        "labels": torch.tensor([1, 1, 0.5, 1, 0.9], dtype=torch.float64),
    }


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("log_ratio_clip", [0.05, 0.3, float("inf")])
@pytest.mark.parametrize("chunk_size", [1, 4, 30])
def test_all_three_gradients_agree_in_float64(
    toy: tuple[torch.Tensor, ...], objective: str, log_ratio_clip: float, chunk_size: int
) -> None:
    weight, features, reference = toy
    loss = partial(OBJECTIVES[objective], **pairs_of_six(), dpo_beta=3.0, log_ratio_clip=log_ratio_clip)
    (expected,) = torch.autograd.grad(loss(torch.tanh(features @ weight) - reference), weight)
    assert float(expected.abs().max()) > 0
    for take in (one_pass_gradient, two_pass_gradient):
        weight.grad = None
        take(toy_log_probs(weight, features), reference, loss, chunk_size=chunk_size)
        torch.testing.assert_close(weight.grad, expected, rtol=1e-12, atol=1e-14)


def test_finite_differences_agree(toy: tuple[torch.Tensor, ...]) -> None:
    weight, features, reference = toy
    loss = partial(OBJECTIVES["ppod"], **pairs_of_six(), dpo_beta=3.0, log_ratio_clip=0.3)
    two_pass_gradient(toy_log_probs(weight, features), reference, loss, chunk_size=7)
    for i in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[i] = 1e-6
        ends = [float(loss(torch.tanh(features @ (weight.detach() + s)))) for s in (shift, -shift)]
        assert weight.grad is not None
        assert float(weight.grad[i]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_clipped_steps_are_not_evaluated_again(toy: tuple[torch.Tensor, ...]) -> None:
    weight, features, reference = toy
    calls: list[int] = []
    loss = partial(OBJECTIVES["ppod"], **pairs_of_six(), dpo_beta=3.0, log_ratio_clip=0.05)
    gradient = two_pass_gradient(toy_log_probs(weight, features, calls), reference, loss, chunk_size=8)
    in_band = int((gradient.log_ratios.abs() <= 0.05).sum())
    assert 0 < in_band < 30
    assert sum(calls) == 30 + in_band
    assert gradient.backward_share == pytest.approx(in_band / 30)


def test_each_trajectory_is_evaluated_once_however_many_pairs(toy: tuple[torch.Tensor, ...]) -> None:
    """All 15 pairs of 6 trajectories cost as many evaluations as 3 disjoint pairs."""
    weight, features, reference = toy
    everything = torch.combinations(torch.arange(6))
    costs = []
    for chosen, rejected in [
        (everything[:, 0], everything[:, 1]),
        (torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])),
    ]:
        calls: list[int] = []
        loss = partial(
            OBJECTIVES["ppod"],
            chosen=chosen,
            rejected=rejected,
            labels=torch.ones(len(chosen)),
            dpo_beta=1.0,
            log_ratio_clip=float("inf"),
        )
        two_pass_gradient(toy_log_probs(weight, features, calls), reference, loss, chunk_size=8)
        costs.append(sum(calls))
    assert costs[0] == costs[1] == 60


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_gradients_of_a_real_network_agree_in_float64(
    tmp_path: Path,
    fresh_model: DiffusionModel,
    record_dataset: Callable[..., Dataset],
    lora_rank: int,
    guidance_scale: float,
) -> None:
    """Pairs that share trajectories, a clip that cuts some steps, the whole network in float64."""
    dataset = record_dataset(tmp_path, fresh_model, guidance_scale=guidance_scale)
    data = open_preferences([dataset.root], "pairs", policy_fingerprint=fresh_model.fingerprint)
    parameters = trainable_parameters(fresh_model, lora_rank=lora_rank, seed=0)
    sampler = prepare_sampler(data.spec, fresh_model)
    fresh_model.pipeline.unet.double()
    double = type(sampler)(
        model=sampler.model,
        network=lambda x, t, c: fresh_model.pipeline.unet(x.double(), t, c.double(), return_dict=False)[0],
        schedule=sampler.schedule,
        conditioning=sampler.conditioning,
    )
    with torch.no_grad():
        for i, parameter in enumerate(parameters.values()):
            generator = torch.Generator().manual_seed(i)
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    batch = load_batch(data, np.arange(6), data.steps, "cpu")
    log_probs = batch_log_probs(data.spec, double, batch)
    loss = partial(
        OBJECTIVES["ppod"],
        chosen=batch.chosen,
        rejected=batch.rejected,
        labels=batch.labels,
        dpo_beta=10.0,
        log_ratio_clip=median_log_ratio(log_probs, batch.reference_log_probs),
    )

    def gradient_of(take: Callable[[], Gradient | None]) -> tuple[list[torch.Tensor], Gradient | None]:
        for parameter in parameters.values():
            parameter.grad = None
        result = take()
        return [p.grad.clone() for p in parameters.values() if p.grad is not None], result

    def autograd() -> None:
        policy = log_probs(*all_places(batch.reference_log_probs)).view(len(data.steps), -1).T
        loss(policy - batch.reference_log_probs).backward()

    expected, _ = gradient_of(autograd)
    assert expected and max(float(g.abs().max()) for g in expected) > 0
    for take in (one_pass_gradient, two_pass_gradient):
        found, result = gradient_of(partial(take, log_probs, batch.reference_log_probs, loss, chunk_size=5))
        assert result is not None and 0 < float((result.weights == 0).double().mean()) < 1
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)


def all_places(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every (row, column) of [U, T], timestep by timestep."""
    columns, rows = torch.ones_like(matrix).T.nonzero(as_tuple=True)
    return rows, columns


@torch.no_grad()
def median_log_ratio(log_probs: LogProbs, reference: torch.Tensor) -> float:
    """A clip that cuts half of the steps."""
    return float((log_probs(*all_places(reference)) - reference.T.reshape(-1)).abs().median())
