"""`--height` and `--width`: latents, size conditions, shifts and positions of another size, as diffusers has them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ppod_cli import data as data_app
from ppod_cli import gen, pair, score, train

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import decode_images, embed_prompts, load_model, resized
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.errors import ConfigError
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.cost import measure_seconds, plan_generation
from ppod_data.generation.sampling import build_policy, sample_batch, sample_images
from tests.ppod_train.run.test_families import step_noise
from tests.support.command import call
from tests.support.pipelines import (
    save_tiny_flux_pipeline,
    save_tiny_pipeline,
    save_tiny_sd3_pipeline,
    save_tiny_xl_pipeline,
)

SIZE = {"height": 24, "width": 8}
UNETS = {"sd-1": save_tiny_pipeline, "sd-xl": save_tiny_xl_pipeline}
FLOWS = {"sd-3": save_tiny_sd3_pipeline, "flux": save_tiny_flux_pipeline}


@pytest.mark.parametrize("name", UNETS)
def test_a_chain_is_that_of_the_pipelines_own_call(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    model = load_model(str(UNETS[name](tmp_path / name)))
    options: dict[str, Any] = {"num_images_per_prompt": 2, "num_inference_steps": 4, "guidance_scale": 3.0}
    spec = build_spec(model, prompts=["a cat"], batch_size=2, **SIZE, **options)
    assert (spec.height, spec.width, spec.latent_shape) == (24, 8, (4, 12, 4))
    policy = build_policy(spec, model)
    chain = sample_batch(spec, policy, range(2), record=True)
    noise: Iterator[torch.Tensor] = iter(step_noise(spec))
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddim.randn_tensor", lambda *_, **__: next(noise))
    model.pipeline.scheduler = diffusers.DDIMScheduler(**spec.scheduler)
    start = chain.latents[0].clone()
    ended = model.pipeline("a cat", eta=1.0, latents=start, output_type="latent", **SIZE, **options).images
    assert torch.equal(ended, chain.latents[-1])
    assert [image.size for image in decode_images(model, chain.latents[-1])] == [(8, 24)] * 2


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_chain_without_noise_is_that_of_the_pipelines_own_call(name: str, tmp_path: Path) -> None:
    """The dynamic shift of FLUX.1-dev goes with the number of its patches."""
    model = load_model(str(FLOWS[name](tmp_path / name)))
    options: dict[str, Any] = {"num_images_per_prompt": 2, "num_inference_steps": 4, "guidance_scale": 3.0}
    spec = build_spec(model, prompts=["a cat"], batch_size=2, ddim_eta=1e-30, **SIZE, **options)
    own = build_spec(model, prompts=["a cat"], **options)
    assert (spec.scheduler != own.scheduler) == (name == "flux")
    policy = build_policy(spec, model)
    chain = sample_batch(spec, policy, range(2), record=True)
    pipeline, start = model.pipeline, chain.latents[0]
    if name == "flux":
        start = pipeline._pack_latents(start, 2, *spec.latent_shape)
    ended = pipeline("a cat", latents=start.clone(), output_type="latent", **options, **SIZE).images
    if name == "flux":
        ended = pipeline._unpack_latents(ended, 24, 8, pipeline.vae_scale_factor)
    assert torch.equal(ended, chain.latents[-1])


def test_stable_diffusion_xl_reads_the_size_in_both_halves(tmp_path: Path) -> None:
    model = resized(load_model(str(save_tiny_xl_pipeline(tmp_path / "xl"))), 24, 12)
    conditioning = embed_prompts(model, ["a cat"], "", 3.0)
    assert conditioning.negative is not None
    for condition in (conditioning.of([0]), conditioning.negative):
        assert condition["time_ids"].tolist() == [[24, 12, 0, 0, 24, 12]]


def test_sizes_that_a_model_does_not_make_are_refused(tmp_path: Path) -> None:
    unet, sd3 = (
        load_model(str(save(tmp_path / save.__name__))) for save in (save_tiny_pipeline, FLOWS["sd-3"])
    )
    assert resized(unet, None, None) is unet and resized(unet, 16, 16) is unet
    assert resized(unet, 18, None).latent_shape == (4, 9, 8)
    with pytest.raises(ConfigError, match=r"height is 17: .* makes multiples of 2 pixels: give 16"):
        build_spec(unet, prompts=["a cat"], height=17)
    with pytest.raises(ConfigError, match=r"width is 18: .* makes multiples of 4 pixels: give 16"):
        resized(sd3, None, 18)
    with pytest.raises(ConfigError, match=r"height is 36: .* makes at most 32 pixels a side"):
        resized(sd3, 36, None)
    with pytest.raises(ConfigError, match="give 2"):
        resized(unet, 1, None)


def test_a_dry_run_is_of_the_size_that_is_asked_for(tmp_path: Path) -> None:
    folder = str(save_tiny_pipeline(tmp_path / "model"))
    skeleton, model = load_skeleton(folder), load_model(folder)
    options: dict[str, Any] = {"prompts": ["a cat"], "num_images_per_prompt": 2, "batch_size": 2}
    small, large = (build_spec(skeleton, height=side, width=side, **options) for side in (16, 64))
    plans = [plan_generation(skeleton, spec) for spec in (small, large)]
    assert plans[1].latent_bytes == 16 * plans[0].latent_bytes
    assert plans[1].sample_bytes > 8 * plans[0].sample_bytes
    assert plans[1].decode_bytes > 8 * plans[0].decode_bytes
    assert measure_seconds(large, model) > 0


def test_the_commands_follow_the_data_sets_size_and_window(tmp_path: Path, tiny_pipeline: Path) -> None:
    """Training replays without drift and evaluates by the data's sampler, and so does an evaluation of its policy."""
    root, run = tmp_path / "data", tmp_path / "run"
    size = ("--height", 24, "--width", 12, "--noisy-steps", "0:1")
    few = ("--num-images-per-prompt", 3, "--num-inference-steps", 2)
    made = call(gen.app, root, "--model", tiny_pipeline, "--prompt", "a cat", *size, *few)
    assert made.code == 0, made.stderr
    assert call(data_app.app, "verify", root, "--read-data").code == 0
    call(score.app, root, "--reward", "jpeg-compressibility")
    call(pair.app, "rank", root, "--reward", "jpeg-compressibility")
    steps = ("--num-train-steps", 1, "--lora-rank", 2, "--eval-images-per-prompt", 2)
    trained = call(train.app, "offline", root, "--out", run, *steps)
    assert trained.code == 0, trained.stderr
    assert json.loads((run / "run.json").read_text())["drift"]["share_exact"] == 1
    out = tmp_path / "result"
    few = ("--num-images-per-prompt", 2, "--reward", "jpeg-compressibility")
    judged = call(train.app, "eval", "--adapter", run / "policy", "--out", out, *few)
    assert judged.code == 0, judged.stderr
    for folder in (run / "evals" / "step-000001", next(out.rglob("eval.json")).parent):
        judged_by = json.loads((folder / "eval.json").read_text())
        sheet = judged_by["sheet"]
        assert (sheet["height"], sheet["width"], judged_by["noisy_steps"]) == (24, 12, "0:1")
    other = call(gen.app, root, "--model", tiny_pipeline, "--prompt", "a cat", *few[:2])
    assert other.code == 2 and "differs" in other.one_error()


def test_an_online_run_has_one_size(tmp_path: Path, tiny_pipeline: Path) -> None:
    given = ("--model", tiny_pipeline, "--prompt", "a cat", "--reward", "jpeg-compressibility")
    few = ("--num-images-per-prompt", 3, "--num-inference-steps", 2, "--height", 24, "--width", 12)
    steps = ("--stages", 1, "--num-train-steps", 1, "--lora-rank", 2, "--eval-images-per-prompt", 2)
    done = call(train.app, "online", "--out", tmp_path / "on", *given, *few, *steps)
    assert done.code == 0, done.stderr
    spec = Dataset.open(tmp_path / "on" / "stage-01" / "data").spec
    assert (spec.height, spec.width) == (24, 12)
    sheet = json.loads((tmp_path / "on" / "evals" / "stage-01" / "eval.json").read_text())["sheet"]
    assert (sheet["height"], sheet["width"]) == (24, 12)


def test_a_spec_says_the_size_whatever_the_model_is_loaded_for(tmp_path: Path, tiny_pipeline: Path) -> None:
    model = load_model(str(tiny_pipeline))
    spec = build_spec(model, prompts=["a cat"], num_images_per_prompt=1, num_inference_steps=2, **SIZE)
    [[(_, _, image)]] = list(sample_images(spec, model))
    assert image.size == (8, 24)
