"""Training in half precision: gradients that fp16 holds, and rounding that the clip can tell from training."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_data.errors import NonFiniteError
from ppod_data.generation.sampling import build_policy
from ppod_train.data.batches import load_batch
from ppod_train.data.training_data import open_training_data
from ppod_train.distributed import Workers
from ppod_train.objectives import OBJECTIVES
from ppod_train.policy.policy import reference_network, trainable_parameters
from ppod_train.run.prepare import prepare
from ppod_train.settings import TrainSettings
from ppod_train.step.gradient import Evaluate, Gradient, one_pass_gradient, two_pass_gradient, unscale
from ppod_train.step.log_probs import batch_log_probs
from ppod_train.step.train_step import backward_rows, batch_gradient, train_step
from tests.ppod_train.conftest import source_of
from tests.ppod_train.step.test_network_gradient import moved, on_final_latents, six_units
from tests.support.models import load_again
from tests.support.pipelines import save_tiny_pipeline

LATENT_DIMENSIONS = 4 * 32 * 32


@pytest.fixture(scope="module")
def large_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with latents of 4×32×32, and predictions of a quarter."""
    from diffusers import StableDiffusionPipeline

    folder = save_tiny_pipeline(tmp_path_factory.mktemp("models") / "large")
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.unet.register_to_config(sample_size=32)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 32, 32, generator=generator)
    text = torch.randn(2, 16, 16, generator=generator)
    with torch.no_grad():
        size = float(pipeline.unet(latents, 500, text).sample.std())
        for parameter in pipeline.unet.conv_out.parameters():
            parameter /= 4 * size
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def large(
    record_dataset: Callable[..., Dataset], large_pipeline: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Four steps of two images a prompt under guidance 5, recorded in fp32 and rounded to fp16."""
    model = load_model(str(large_pipeline))
    root = tmp_path_factory.mktemp("data") / "large"
    options = {"num_images_per_prompt": 2, "batch_size": 2, "guidance_scale": 5.0, "latent_dtype": "fp16"}
    return record_dataset(root, model, **options).root


def gradient_in(
    dtype: str, data: Path, pipeline: Path, objective: str, share: float, largest_weight: float | None
) -> torch.Tensor:
    """Of LoRA's second factors, in one vector; `share` is that of the batch in the whole update's."""
    model = load_again(pipeline, compute_dtype=dtype)
    source = open_training_data(
        source_of(data), OBJECTIVES[objective], policy_fingerprint=model.fingerprint, best_of=2
    )
    policy = build_policy(replace(source.spec, prompts=source.prompts), model)
    parameters = trainable_parameters(model, lora_rank=4, seed=0)
    batch = load_batch(source, source.units[:2], source.steps, policy.prompts)
    options = replace(TrainSettings(objective=objective).loss_options(), log_ratio_clip=0.1)
    if objective == "d3po":
        options = replace(options, dpo_beta=0.1)
    done = two_pass_gradient(
        batch_log_probs(policy, batch),
        batch.reference_log_probs,
        lambda log_ratios: share / 4 * OBJECTIVES[objective].loss(log_ratios, batch.targets, options),
        chunk_size=4,
        largest_weight=largest_weight,
    )
    unscale(parameters.values(), done.scale)
    found = [value.grad.flatten().double() for value in parameters.values() if value.grad is not None]
    return torch.cat(found)


# The share of the batch here, two units in four steps, in an update of that many units in 20 or 50 steps; a quarter of
# it, since Stable Diffusion's latents have four times as many dimensions.
@pytest.mark.parametrize(
    ("objective", "share"), [("ddpo", 2 * 4 / (64 * 50)), ("d3po", 4 / 20), ("ppod", 2 / 16), ("sft", 1 / 16)]
)
def test_fp16_gradients_are_those_of_fp32(
    large: Path, large_pipeline: Path, objective: str, share: float
) -> None:
    """Without a scale they are below fp16's range: the cosine was 0.12 for ddpo, 0.04 for d3po, 0.78 for sft."""
    work = partial(gradient_in, data=large, pipeline=large_pipeline, objective=objective, share=share)
    expected = work("fp32", largest_weight=LATENT_DIMENSIONS)
    found = work("fp16", largest_weight=LATENT_DIMENSIONS)
    cosine = torch.nn.functional.cosine_similarity(found, expected, dim=0)
    assert float(cosine) >= 0.999
    assert 0.98 < float(found.norm() / expected.norm()) < 1.02


@pytest.mark.long
@pytest.mark.parametrize(("objective", "kl_weight"), [*((name, 0.0) for name in OBJECTIVES), ("ppod", 3.0)])
def test_the_scale_leaves_every_bit_of_an_fp32_gradient(
    fresh_model: DiffusionModel, recorded: Path, objective: str, kl_weight: float
) -> None:
    """In one pass, in two, and in chunks of any size."""
    options = TrainSettings(objective=objective).loss_options()
    policy, batch = six_units(Dataset.open(recorded), fresh_model, objective)
    before = policy.with_network(reference_network(fresh_model, lora_rank=4))
    parameters = trainable_parameters(fresh_model, lora_rank=4, seed=0)
    moved(parameters, 0.1)
    evaluate: Evaluate = batch_log_probs(policy, batch, kl_to=before if kl_weight else None)
    if OBJECTIVES[objective].on_final_latents:
        evaluate, _ = on_final_latents(policy, batch, objective, options, before)
    loss = partial(
        OBJECTIVES[objective].loss,
        targets=batch.targets,
        options=options,
    )

    def gradients(take: Callable[..., Gradient], largest_weight: float | None) -> list[torch.Tensor]:
        for parameter in parameters.values():
            parameter.grad = None
        done = take(
            evaluate, batch.reference_log_probs, loss, kl_weight=kl_weight, largest_weight=largest_weight
        )
        assert (done.scale != 1) == (largest_weight is not None)
        unscale(parameters.values(), done.scale)
        return [value.grad for value in parameters.values() if value.grad is not None]

    for take in (
        partial(one_pass_gradient, chunk_size=5),
        partial(two_pass_gradient, chunk_size=5),
        partial(two_pass_gradient, chunk_size=24, backward_size=2),
    ):
        plain, scaled = gradients(take, None), gradients(take, 256.0)
        assert plain and any(bool(value.any()) for value in plain)
        assert all(torch.equal(one, other) for one, other in zip(plain, scaled, strict=True))


def half_state(data: Path, pipeline: Path, **changes: Any) -> Any:
    """What a step in fp16 works on, from a policy away from the reference."""
    settings = TrainSettings(
        **{
            "objective": "ppod",
            "lora_rank": 4,
            "pairs_per_step": 3,
            "log_ratio_clip": 1.0,
            "drift_samples": 1,
        }
        | changes
    )
    model = load_again(pipeline, compute_dtype="fp16")
    state, _ = prepare(source_of(data), model, settings, "", None, Workers())
    moved(dict(state.parameters))
    return state


@pytest.mark.parametrize("gradient", ["one-pass", "two-pass"])
def test_an_overflow_lowers_the_scale_and_the_step_is_taken_again(
    recorded: Path, tiny_pipeline: Path, gradient: str
) -> None:
    """A network whose inner gradients are 2^14 times those of its output; the steps after begin at the lower scale."""
    state = half_state(recorded, tiny_pipeline, gradient=gradient)
    calls: list[int] = []

    def steep(*asked: Any) -> torch.Tensor:
        calls.append(1)
        output = state.policy.network(*asked)
        if output.requires_grad:
            output.register_hook(lambda given: given * 2.0**14)
        return output

    steeper = replace(state, policy=state.policy.with_network(steep))
    first = train_step(steeper, step=0, gradient_share=1.0)
    assert first.scale_drops > 0 and 0 < first.grad_norm < float("inf")
    once = len(calls) / (first.scale_drops + 1)
    assert all(bool(value.isfinite().all()) for value in state.parameters.values())
    calls.clear()
    second = train_step(steeper, step=1, gradient_share=1.0, scale_drops=first.scale_drops)
    assert second.scale_drops == first.scale_drops and len(calls) == once
    assert train_step(state, step=0, gradient_share=1.0).scale_drops == 0


def test_a_step_whose_gradient_is_never_finite_is_refused(recorded: Path, tiny_pipeline: Path) -> None:
    state = half_state(recorded, tiny_pipeline)

    def endless(*asked: Any) -> torch.Tensor:
        output = state.policy.network(*asked)
        if output.requires_grad:
            output.register_hook(lambda given: given * float("inf"))
        return output

    with pytest.raises(NonFiniteError, match="step 1"):
        train_step(replace(state, policy=state.policy.with_network(endless)), step=0, gradient_share=1.0)


def test_pass_2_keeps_to_the_size_of_a_graph_and_the_gradient_stays(
    recorded: Path, tiny_pipeline: Path
) -> None:
    """Chunks of 8 evaluations in pass 1, whatever the graph may be; of 1 to 8 in pass 2."""
    settings = TrainSettings(lora_rank=4, pairs_per_step=4, drift_samples=1, kl_weight=3.0)
    state, _ = prepare(source_of(recorded), load_again(tiny_pipeline), settings, "", None, Workers())
    moved(dict(state.parameters))
    batch = load_batch(state.data, state.data.units[:4], state.data.steps, state.policy.prompts)
    expected: list[torch.Tensor] = []
    for graphs in (8, 3, 1, 0.5):
        sizes: list[tuple[bool, int]] = []

        def counted(
            latents: torch.Tensor, *asked: Any, sizes: list[tuple[bool, int]] = sizes
        ) -> torch.Tensor:
            sizes.append((torch.is_grad_enabled(), len(latents)))
            return state.policy.network(latents, *asked)

        limited = replace(
            state,
            settings=replace(settings, max_graph_gib=graphs * state.graph_bytes / 2**30),
            policy=state.policy.with_network(counted),
        )
        state.optimizer.zero_grad(set_to_none=True)
        done = batch_gradient(limited, batch, settings.loss_options(), step=0, method="two-pass", groups=())
        unscale(state.parameters.values(), done.scale)
        assert {size for graph, size in sizes if graph} <= set(range(1, max(1, int(graphs)) + 1))
        assert max(size for graph, size in sizes if not graph) == 8
        found = [value.grad for value in state.parameters.values() if value.grad is not None]
        expected = expected or found
        largest = max(float(value.abs().max()) for value in expected)
        torch.testing.assert_close(found, expected, rtol=0, atol=3e-5 * largest)
    assert backward_rows(settings, 8, state.graph_bytes) == 8
