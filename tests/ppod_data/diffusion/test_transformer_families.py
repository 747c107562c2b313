"""Families with a language model for text encoder give what the pipeline's own call gives."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppod_data.diffusion.condition import condition_bytes
from ppod_data.diffusion.flow import flow_chain
from ppod_data.diffusion.models.model import DiffusionModel, decode_images, embed_prompts, load_model
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.errors import ConfigError
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.cost import plan_generation
from ppod_data.generation.sampling import build_policy, sample_batch
from tests.support.families import CASES, Recorded, Replayed, euler, own_options

STEPS = 4


def size_of(name: str) -> dict[str, int]:
    """Return an image's size that is not square."""
    return dict(zip(("height", "width"), CASES[name].size, strict=True))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, DiffusionModel]:
    root = tmp_path_factory.mktemp("models")
    return {name: load_model(str(case.save(root / name))) for name, case in CASES.items()}


def call(model: DiffusionModel, name: str, latents: torch.Tensor, negative_prompt: str) -> Any:
    """Call the pipeline for two images of one prompt; return its images."""
    case = CASES[name]
    return model.pipeline(
        prompt="a cat",
        latents=case.given(model.pipeline, latents).clone(),
        num_images_per_prompt=2,
        num_inference_steps=STEPS,
        **own_options(model, case.scale, negative_prompt),
        **size_of(name),
        **case.options(STEPS),
    ).images


PROMPTED = [(name, "") for name in CASES] + [
    (name, "blurry") for name, case in CASES.items() if case.negative
]


@pytest.mark.parametrize(("name", "negative_prompt"), PROMPTED)
def test_a_chain_without_noise_is_that_of_the_pipelines_own_call(
    models: Mapping[str, DiffusionModel], name: str, negative_prompt: str
) -> None:
    model, case = models[name], CASES[name]
    spec = build_spec(
        model,
        prompts=["a cat"],
        num_images_per_prompt=2,
        num_inference_steps=STEPS,
        guidance_scale=case.scale,
        guidance_mode="sequential",
        negative_prompt=negative_prompt,
        ddim_eta=1e-30,
        **size_of(name),
    )
    chain = sample_batch(spec, build_policy(spec, model), range(2), record=True)
    own = model.pipeline.scheduler
    model.pipeline.scheduler = recorded = euler(Recorded, model.pipeline)
    images = call(model, name, chain.latents[0], negative_prompt)
    model.pipeline.scheduler = own
    torch.testing.assert_close(
        case.stepped(model.pipeline, chain.latents[-1]), recorded.last, rtol=0, atol=1e-5
    )
    for ours, theirs in zip(decode_images(model, chain.latents[-1]), images, strict=True):
        assert ours.size == theirs.size == case.size[::-1]
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int)).max() <= 1


@pytest.mark.parametrize("name", CASES)
def test_log_probs_are_those_of_flow_grpo_along_the_pipelines_own_call(
    models: Mapping[str, DiffusionModel], name: str
) -> None:
    model, case = models[name], CASES[name]
    spec = build_spec(
        model,
        prompts=["a cat"],
        num_images_per_prompt=2,
        num_inference_steps=STEPS,
        guidance_scale=case.scale,
        noisy_steps=f"0:{STEPS}",
        **size_of(name),
    )
    policy = build_policy(spec, model)
    chain = sample_batch(spec, policy, range(2), record=True)
    own = model.pipeline.scheduler
    model.pipeline.scheduler = oracle = euler(Replayed, model.pipeline)
    oracle.chain = [case.stepped(model.pipeline, latents) for latents in chain.latents]
    oracle.noise_level, oracle.log_probs = spec.ddim_eta, []
    call(model, name, chain.latents[0], "")
    model.pipeline.scheduler = own
    noisy = list(policy.schedule.stochastic)
    assert noisy == [True] * (STEPS - 1) + [False]
    torch.testing.assert_close(
        chain.log_probs[noisy], torch.stack(oracle.log_probs)[noisy], rtol=0, atol=1e-4
    )


def test_sanas_sigmas_are_those_of_its_solver(models: Mapping[str, DiffusionModel]) -> None:
    """The solver multiplies its sigmas by 0.999 before the shift."""
    model = models["sana"]
    for num_steps in (4, 20):
        ours = flow_chain(model.scheduler_config, num_steps)["sigmas"]
        model.pipeline.scheduler.set_timesteps(num_steps)
        assert ours == pytest.approx(model.pipeline.scheduler.sigmas.tolist(), abs=1e-3) and ours[0] == 1


def test_a_solver_of_noise_is_refused_for_sana(models: Mapping[str, DiffusionModel], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["sana"].name, tmp_path / "model"))
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "epsilon"}))
    with pytest.raises(ConfigError, match="DPMSolverMultistepScheduler is not supported for a flow-matching"):
        load_skeleton(str(folder))


def test_a_distilled_model_reads_no_guidance_scale(models: Mapping[str, DiffusionModel]) -> None:
    model = models["flux2-klein"]
    spec = build_spec(model, prompts=["a cat"], num_inference_steps=4)
    assert spec.guidance_scale == 1
    with pytest.raises(ConfigError, match="reads no guidance scale: give 1, not 4"):
        build_policy(build_spec(model, prompts=["a cat"], guidance_scale=4.0), model)


@pytest.mark.parametrize("name", CASES)
def test_a_dry_run_embeds_calls_and_decodes_without_weights(
    name: str, models: Mapping[str, DiffusionModel]
) -> None:
    model, skeleton = models[name], load_skeleton(models[name].name)
    spec = build_spec(
        model, prompts=["a cat"], num_inference_steps=STEPS, guidance_scale=CASES[name].scale, **size_of(name)
    )
    again = build_spec(skeleton, prompts=["a cat"], num_inference_steps=STEPS, **size_of(name))
    assert spec.scheduler == again.scheduler
    plan = plan_generation(skeleton, spec)
    own = embed_prompts(model, ["a cat"], "", 1.0).of([0])
    assert plan.embedding_bytes == condition_bytes(own) and min(plan.sample_bytes, plan.decode_bytes) > 0
