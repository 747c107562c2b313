"""On a real network: one exact gradient for every objective, and a reference that stays what it was."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.guidance import Network
from ppod_data.diffusion.models.model import DiffusionModel, embed_prompts, load_model, network
from ppod_data.diffusion.policy import Policy
from ppod_data.generation.sampling import build_policy
from ppod_train.data.batches import TrainingBatch, load_batch
from ppod_train.data.training_data import open_training_data
from ppod_train.objectives import OBJECTIVES
from ppod_train.objectives.clip import band_centre, band_regions
from ppod_train.objectives.targets import LossOptions
from ppod_train.policy.policy import reference_network, trainable_parameters
from ppod_train.settings import TrainSettings
from ppod_train.step.bounded_pass import by_group_gradient, by_trajectory_gradient
from ppod_train.step.denoising import denoising_scores, forward_noise
from ppod_train.step.gradient import Evaluate, Gradient, all_log_probs, one_pass_gradient, two_pass_gradient
from ppod_train.step.groups import evaluation_groups
from ppod_train.step.log_probs import batch_log_probs
from tests.ppod_train.conftest import source_of

Parameters = dict[str, torch.nn.Parameter]


def double_network(unet: Any) -> Network:
    return lambda x, t, c: unet(x.double(), t, c["prompt_embeds"].double(), return_dict=False)[0]


def moved(parameters: Parameters, scale: float = 0.02) -> None:
    """A policy a little away from where it started."""
    with torch.no_grad():
        for i, parameter in enumerate(parameters.values()):
            generator = torch.Generator().manual_seed(i)
            parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(
                parameter.dtype
            )


def six_units(dataset: Dataset, model: DiffusionModel, objective: str) -> tuple[Policy, TrainingBatch]:
    """A batch of the objective: six pairs that share trajectories, or six trajectories."""
    data = open_training_data(
        source_of(dataset.root), OBJECTIVES[objective], policy_fingerprint=model.fingerprint, best_of=2
    )
    policy = build_policy(replace(data.spec, prompts=data.prompts), model)
    return policy, load_batch(data, data.units[:6], data.steps, policy.prompts)


def on_final_latents(
    policy: Policy,
    batch: TrainingBatch,
    objective: str,
    options: LossOptions,
    before: Policy,
    *,
    kl_to: Policy | None = None,
) -> tuple[Evaluate, torch.Tensor]:
    """The scores of an objective that reads x_0 alone, and the values to subtract; `before` made the data."""
    known = OBJECTIVES[objective]
    assert known.score is not None
    noise = forward_noise(batch, step=0, seed=0)
    scores = partial(denoising_scores, batch=batch, score=known.score, options=options, noise=noise)
    like = batch.reference_log_probs
    if known.compares_with == "maker":
        return scores(policy, old=before, kl_to=kl_to), torch.zeros_like(like)
    return scores(policy), all_log_probs(scores(before), like, chunk_size=5)


@pytest.fixture(scope="module")
def guided(
    record_dataset: Callable[..., Dataset],
    tiny_model: DiffusionModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a data set recorded under guidance."""
    return record_dataset(tmp_path_factory.mktemp("data") / "guided", tiny_model, guidance_scale=3.0).root


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize(
    ("objective", "data", "kl_weight"),
    [
        *((name, "recorded", 0.0) for name in OBJECTIVES),
        ("ppod", "guided", 0.0),
        ("ppod", "recorded", 3.0),
        ("dpok", "guided", 3.0),
        ("diffusion-nft", "recorded", 3.0),
    ],
)
def test_gradients_of_a_real_network_agree_in_float64(
    request: pytest.FixtureRequest,
    fresh_model: DiffusionModel,
    objective: str,
    data: str,
    kl_weight: float,
    lora_rank: int,
) -> None:
    """Trajectories that pairs share, a clip that cuts half of the steps, the whole network in float64."""
    dataset = Dataset.open(request.getfixturevalue(data))
    options = TrainSettings(objective=objective).loss_options()
    policy, batch = six_units(dataset, fresh_model, objective)
    parameters = trainable_parameters(fresh_model, lora_rank=lora_rank, seed=0)
    unet = fresh_model.pipeline.unet.double()
    before = policy.with_network(double_network(deepcopy(unet)))
    moved(parameters)
    policy = policy.with_network(double_network(unet))
    places = all_places(batch.reference_log_probs)
    kl_to = before if kl_weight else None
    if OBJECTIVES[objective].on_final_latents:
        evaluate, reference = on_final_latents(policy, batch, objective, options, before, kl_to=kl_to)
    else:
        evaluate, reference = batch_log_probs(policy, batch, kl_to=kl_to), batch.reference_log_probs
    if "log_ratio_clip" in OBJECTIVES[objective].reads:
        options = replace(options, log_ratio_clip=median_log_ratio(evaluate, reference))
    loss = partial(OBJECTIVES[objective].loss, targets=batch.targets, options=options)

    def gradient_of(take: Callable[[], Gradient | None]) -> tuple[list[torch.Tensor], Gradient | None]:
        for parameter in parameters.values():
            parameter.grad = None
        result = take()
        return [p.grad.clone() for p in parameters.values() if p.grad is not None], result

    def autograd() -> None:
        values = evaluate(*places)
        policy = values.log_prob.view(reference.shape[1], -1).T
        total = loss(policy - reference)
        (total if values.kl is None else total + kl_weight * values.kl.mean()).backward()

    expected, _ = gradient_of(autograd)
    assert expected and max(float(g.abs().max()) for g in expected) > 0
    ways: list[Callable[..., Gradient]] = [
        partial(one_pass_gradient, kl_weight=kl_weight),
        partial(two_pass_gradient, kl_weight=kl_weight),
    ]
    couples = OBJECTIVES[objective].couples
    pairs = torch.stack([batch.targets.chosen, batch.targets.rejected])

    def by_group(*inputs: Any, chunk_size: int) -> Gradient:
        groups = evaluation_groups(couples, reference, pairs, chunk_size=chunk_size)
        return by_group_gradient(*inputs, groups=groups, kl_weight=kl_weight)

    ways.append(by_group)
    if couples == "trajectory" and not kl_weight:
        centre = band_centre(batch.targets, options)
        ways.append(
            partial(
                by_trajectory_gradient,
                parameters=list(parameters.values()),
                regions=lambda ratios, *at: band_regions(ratios, centre[at], options),
                step_weights=torch.ones(reference.shape[1], dtype=torch.float64),
            )
        )
    for take in ways:
        found, result = gradient_of(partial(take, evaluate, reference, loss, chunk_size=5))
        assert result is not None and float((result.weights != 0).double().mean()) > 0
        if objective in ("ppod", "ppod-mse", "d3po", "dpok"):
            assert float((result.weights == 0).double().mean()) > 0
        scale = max(float(g.abs().max()) for g in expected)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * scale)


def all_places(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every (row, column) of [U, T], timestep by timestep."""
    columns, rows = torch.ones_like(matrix).T.nonzero(as_tuple=True)
    return rows, columns


@torch.no_grad()
def median_log_ratio(evaluate: Evaluate, reference: torch.Tensor) -> float:
    """Return a clip that cuts half of the steps, halfway between two log-ratios: the last bits cut no other step."""
    log_probs = evaluate(*all_places(reference)).log_prob
    sizes = (log_probs - reference.T.reshape(-1)).abs().sort().values
    return float(sizes[len(sizes) // 2 - 1 : len(sizes) // 2 + 1].mean())


@pytest.fixture
def asked(tiny_model: DiffusionModel) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    """What a network is called with."""
    generator = torch.Generator().manual_seed(0)
    condition = embed_prompts(tiny_model, ["a cat"], "", 1.0).of([0] * 3)
    return torch.randn(3, 4, 8, 8, generator=generator), torch.tensor([901, 501, 1]), condition


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_reference_is_the_untouched_network_before_and_after_training(
    fresh_model: DiffusionModel, tiny_pipeline: Path, asked: tuple[Any, ...], lora_rank: int
) -> None:
    """To the last bit, whatever happens to the policy; and the policy is another one."""
    untouched = network(load_model(str(tiny_pipeline)))
    reference = reference_network(fresh_model, lora_rank=lora_rank)
    parameters = trainable_parameters(fresh_model, lora_rank=lora_rank, seed=0)
    policy = network(fresh_model)
    with torch.no_grad():
        expected = untouched(*asked)
        assert torch.equal(reference(*asked), expected)
        assert torch.equal(policy(*asked), expected)
        moved(parameters, 0.1)
        assert torch.equal(reference(*asked), expected)
        after = policy(*asked)
        assert not torch.equal(after, expected)
        reference(*asked)
        assert torch.equal(policy(*asked), after)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_gradients_flow_after_the_reference_was_called(
    fresh_model: DiffusionModel, recorded: Path, lora_rank: int
) -> None:
    """Its call switches the LoRA off and on: the gradient is the same, in one pass of several chunks and in two."""
    policy, batch = six_units(Dataset.open(recorded), fresh_model, "ppod")
    reference = policy.with_network(reference_network(fresh_model, lora_rank=lora_rank))
    parameters = trainable_parameters(fresh_model, lora_rank=lora_rank, seed=0)
    policy = policy.with_network(network(fresh_model))
    moved(parameters)
    options = TrainSettings(objective="ppod").loss_options()
    loss = partial(OBJECTIVES["ppod"].loss, targets=batch.targets, options=options)
    found = []
    for kl_to, take in (
        (None, one_pass_gradient),
        (reference, one_pass_gradient),
        (reference, two_pass_gradient),
    ):
        for parameter in parameters.values():
            parameter.grad = None
        evaluate = batch_log_probs(policy, batch, kl_to=kl_to)
        kl_weight = 1e-30 if kl_to else 0.0
        result = take(evaluate, batch.reference_log_probs, loss, chunk_size=5, kl_weight=kl_weight)
        assert all(parameter.requires_grad for parameter in parameters.values())
        found.append({name: p.grad for name, p in parameters.items()})
        assert (result.kl is None) == (kl_to is None)
    used = [name for name, gradient in found[0].items() if gradient is not None and gradient.any()]
    assert len(used) > len(parameters) / 2
    for gradients in found[1:]:
        for name in used:
            scale = float(found[0][name].abs().max())
            torch.testing.assert_close(gradients[name], found[0][name], rtol=1e-3, atol=1e-4 * scale)


def test_the_kl_of_an_untouched_policy_is_0_and_of_a_moved_one_is_its_mean_log_ratio(
    fresh_model: DiffusionModel, recorded: Path
) -> None:
    """The reference made the data, so E[log π - log π_ref] = -KL(π_ref ‖ π), and KL is the same either way."""
    policy, batch = six_units(Dataset.open(recorded), fresh_model, "sft")
    reference = policy.with_network(reference_network(fresh_model, lora_rank=4))
    parameters = trainable_parameters(fresh_model, lora_rank=4, seed=0)
    evaluate = batch_log_probs(policy.with_network(network(fresh_model)), batch, kl_to=reference)
    places = all_places(batch.reference_log_probs)
    with torch.no_grad():
        kl = evaluate(*places).kl
        assert kl is not None and kl.tolist() == [0.0] * batch.reference_log_probs.numel()
        moved(parameters, 0.3)
        values = evaluate(*places)
    assert values.kl is not None
    log_ratios = values.log_prob - batch.reference_log_probs.T.reshape(-1)
    # log π - log π_ref = -KL + z·√(2 KL / N), N = 256 dimensions, z standard normal
    z = (log_ratios + values.kl) / (2 * values.kl / 256).sqrt()
    assert float(z.abs().max()) < 5 and abs(float(z.mean())) < 4 / len(z) ** 0.5
