"""Every supported pipeline class from the first sample to plain diffusers: exact at every step."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.models.model import DiffusionModel, decode_images, embed_prompts, load_model, network
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.log_probs import compute_log_probs
from ppod_data.generation.sampling import build_policy, sample_batch, sample_images
from ppod_data.support.noise import standard_normal
from ppod_train.evaluation.evaluate import evaluate
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.online.online import train_online
from ppod_train.online.settings import OnlineSettings
from ppod_train.policy.policy import reference_network, save_policy, start_from, trainable_parameters
from ppod_train.run.train import train_offline
from ppod_train.settings import TrainSettings
from tests.ppod_train.conftest import PROMPTS, Redness, record, source_of
from tests.support.pipelines import (
    save_tiny_flux_pipeline,
    save_tiny_pipeline,
    save_tiny_sd3_pipeline,
    save_tiny_xl_pipeline,
)
from tests.support.transformer_pipelines import save_tiny_pixart_pipeline

V_PREDICTION = {
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
SAVERS: Mapping[str, Callable[[Path], Path]] = {
    "sd-1": save_tiny_pipeline,
    "sd-2": partial(save_tiny_pipeline, **V_PREDICTION),
    "sd-xl": save_tiny_xl_pipeline,
    "sd-3": save_tiny_sd3_pipeline,
    "flux": save_tiny_flux_pipeline,
    "pixart-sigma": save_tiny_pixart_pipeline,
}
PLAIN: Mapping[str, Mapping[str, Any]] = {
    "pixart-sigma": {"use_resolution_binning": False, "clean_caption": False}
}
"""Options of a pipeline's own call beside those of the spec."""
SETTINGS = TrainSettings(
    num_train_steps=3, pairs_per_step=6, learning_rate=1e-2, lora_rank=4, eval_every=0, checkpoint_every=3
)


@pytest.fixture(scope="module", params=SAVERS)
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny pipeline of each kind."""
    return SAVERS[request.param](tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def guided(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that it made under guidance, with pairs and scores."""
    root = tmp_path_factory.mktemp("data") / pipeline.name
    record(root, load_model(str(pipeline)), guidance_scale=3.0, negative_prompt="")
    return root


@pytest.mark.parametrize("negative_prompt", ["", "blurry"])
@pytest.mark.parametrize("name", ["sd-1", "sd-2", "sd-xl", "pixart-sigma"])
def test_a_chain_is_that_of_the_pipelines_own_call(
    name: str, negative_prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pipe(prompt, eta=1)` of plain diffusers with our noise ends in the same latents, bit for bit."""
    import diffusers

    model = load_model(str(SAVERS[name](tmp_path / name)))
    spec = build_spec(
        model,
        prompts=["a cat"],
        negative_prompt=negative_prompt,
        num_images_per_prompt=2,
        num_inference_steps=5,
        guidance_scale=3.0,
        batch_size=2,
    )
    chain = sample_batch(spec, build_policy(spec, model), range(2), record=True)
    noise = iter(step_noise(spec))
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddim.randn_tensor", lambda *_, **__: next(noise))
    model.pipeline.scheduler = diffusers.DDIMScheduler(**spec.scheduler)
    written = {"negative_prompt": negative_prompt} if negative_prompt else {}
    ended = model.pipeline(
        "a cat",
        num_images_per_prompt=2,
        num_inference_steps=5,
        guidance_scale=3.0,
        eta=1.0,
        latents=chain.latents[0].clone(),
        output_type="latent",
        **written,
        **PLAIN.get(name, {}),
    ).images
    assert torch.equal(ended, chain.latents[-1])


def test_log_probs_of_pixart_are_those_of_ddims_paper(tmp_path: Path) -> None:
    """The density of each step's noise by Eq. 12 and 16 of Song et al. (2021), in float64 from the betas."""
    model = load_model(str(save_tiny_pixart_pipeline(tmp_path / "model")))
    spec = build_spec(model, prompts=["a cat"], num_images_per_prompt=2, num_inference_steps=5, batch_size=2)
    policy = build_policy(spec, model)
    chain = sample_batch(spec, policy, range(2), record=True)
    kept = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000))
    timesteps = [800, 600, 400, 200, 0]
    assert policy.schedule.timesteps.tolist() == timesteps
    noise = step_noise(spec).double()
    for step, (now, then) in enumerate(pairwise(timesteps)):
        std = ((1 - kept[then]) / (1 - kept[now]) * (1 - kept[now] / kept[then])) ** 0.5
        expected = (-0.5 * noise[step] ** 2).mean(dim=(1, 2, 3)) - np.log(std * (2 * np.pi) ** 0.5)
        torch.testing.assert_close(chain.log_probs[step], expected, rtol=0, atol=1e-4)
    assert policy.schedule.stochastic == (True, True, True, True, False)


@pytest.mark.parametrize("negative_prompt", ["", "blurry"])
@pytest.mark.parametrize("name", ["sd-3", "flux"])
def test_a_flow_chain_without_noise_is_that_of_the_pipelines_own_call(
    name: str, negative_prompt: str, tmp_path: Path
) -> None:
    """Embeddings, timesteps, guidance, packing and sigmas of plain diffusers, bit for bit."""
    model = load_model(str(SAVERS[name](tmp_path / name)))
    written = {"negative_prompt": negative_prompt} if model.family.embed_negative else {}
    options = {"num_images_per_prompt": 2, "num_inference_steps": 5, "guidance_scale": 3.0} | written
    spec = build_spec(model, prompts=["a cat"], batch_size=2, ddim_eta=1e-30, **options)
    chain = sample_batch(spec, build_policy(spec, model), range(2), record=True)
    pipeline, start = model.pipeline, chain.latents[0]
    if name == "flux":
        start = pipeline._pack_latents(start, 2, *model.latent_shape)
    size = {"height": model.height, "width": model.width}
    ended = pipeline("a cat", latents=start.clone(), output_type="latent", **options, **size).images
    if name == "flux":
        ended = pipeline._unpack_latents(ended, model.height, model.width, pipeline.vae_scale_factor)
    assert torch.equal(ended, chain.latents[-1])
    images = pipeline("a cat", latents=start.clone(), output_type="pil", **options, **size).images
    assert [image.tobytes() for image in images] == [
        image.tobytes() for image in decode_images(model, chain.latents[-1])
    ]


def step_noise(spec: GenerationSpec) -> torch.Tensor:
    """The noise of the first prompt's images, [T, B, C, H, W]."""
    rows = [
        standard_normal(
            purpose=spec.purpose,
            stage=0,
            seed=spec.seed,
            prompt_id=spec.prompt_ids[0],
            image_index=k,
            stream="steps",
            shape=(spec.num_inference_steps, *spec.latent_shape),
        )
        for k in range(spec.num_images_per_prompt)
    ]
    return torch.from_numpy(np.stack(rows, axis=1))


def test_training_starts_at_ratio_1_and_plain_diffusers_loads_its_policy(
    pipeline: Path, guided: Path, tmp_path: Path
) -> None:
    """Log-ratio exactly 0 before the first update; LoRA on and off; the images of plain diffusers are ours."""
    import diffusers

    model = load_model(str(pipeline))
    parameters = trainable_parameters(model, lora_rank=SETTINGS.lora_rank, seed=0)
    untrained = compute_log_probs(Dataset.open(guided), model, name="untrained")
    assert parameters and untrained.max_difference == 0.0

    model = load_model(str(pipeline))
    reference = reference_network(model, lora_rank=SETTINGS.lora_rank)
    train_offline(source_of(guided), tmp_path, SETTINGS, model=model, reward=None)
    asked = some_inputs(model)
    before = load_model(str(pipeline))
    with torch.no_grad():
        assert torch.equal(reference(*asked), network(before)(*asked))
        assert not torch.equal(network(model)(*asked), network(before)(*asked))

    ours = load_model(str(pipeline), adapter=str(tmp_path / "policy"))
    with torch.no_grad():
        assert torch.equal(network(model)(*asked), network(ours)(*asked))
    plain = getattr(diffusers, type(model.pipeline).__name__).from_pretrained(
        pipeline, **without_t5(pipeline)
    )
    load_policy(plain, tmp_path / "policy")
    plain.set_progress_bar_config(disable=True)
    size = {"height": model.height, "width": model.width}
    options = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"} | size
    options |= PLAIN.get(pipeline.name, {})
    images = [
        loaded("a cat", generator=torch.Generator().manual_seed(0), **options).images
        for loaded in (plain, ours.pipeline, before.pipeline)
    ]
    assert (images[0] == images[1]).all() and (images[0] != images[2]).any()


def load_policy(plain: Any, folder: Path) -> None:
    """Load LoRA as the policy's card says; diffusers has none for PixArt, and peft loads it."""
    if hasattr(plain, "load_lora_weights"):
        plain.load_lora_weights(folder)
    else:
        plain.transformer = PeftModel.from_pretrained(plain.transformer, folder)


def without_t5(pipeline: Path) -> dict[str, None]:
    """What `from_pretrained` of plain diffusers must be told of a Stable Diffusion 3 that was saved without T5."""
    return {"text_encoder_3": None, "tokenizer_3": None} if pipeline.name == "sd-3" else {}


def some_inputs(model: DiffusionModel) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    """What a network is called with."""
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    return latents, torch.tensor([801, 1]), embed_prompts(model, ["a cat", "two dogs"], "", 1.0).of([0, 1])


@pytest.mark.long
def test_all_weights_train_and_the_pipeline_loads(pipeline: Path, guided: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, lora_rank=0, learning_rate=1e-3)
    model = load_model(str(pipeline))
    train_offline(source_of(guided), tmp_path, settings, model=model, reward=None)
    again = load_model(str(tmp_path / "policy"))
    spec = build_spec(model, prompts=["a cat"], num_images_per_prompt=2, num_inference_steps=4, batch_size=2)
    mine, theirs, old = (
        [image.tobytes() for batch in sample_images(spec, loaded) for *_, image in batch]
        for loaded in (model, again, load_model(str(pipeline)))
    )
    assert mine == theirs != old


@pytest.mark.long
@pytest.mark.parametrize("name", ["sd-3", "flux"])
def test_flow_models_train_online_and_are_evaluated(name: str, tmp_path: Path) -> None:
    """Two stages with the default guidance and noise; the policy, loaded, is evaluated against the reference."""
    folder, out = str(SAVERS[name](tmp_path / name)), tmp_path / "online"
    train = replace(SETTINGS, num_train_steps=2, objective="ppod")
    summary = train_online(
        out,
        OnlineSettings(num_stages=2, num_pairs_per_prompt=4, eval_images_per_prompt=0, train=train),
        reference=ModelSource(model=folder),
        build_spec=partial(
            build_spec, prompts=PROMPTS, num_images_per_prompt=4, num_inference_steps=4, batch_size=4
        ),
        load=lambda source: load_model(source.model, adapter=source.adapter),
        reward=Redness(),
    )
    assert summary.stages == 2
    settings = EvalSettings(prompts=PROMPTS, num_images_per_prompt=2, num_inference_steps=4)
    before = evaluate(load_model(folder), Redness(), settings)
    policy = load_model(folder, adapter=str(out / summary.policy))
    after = evaluate(policy, Redness(), settings, baseline=before)
    assert (after.settings.ddim_eta, after.settings.guidance_scale) == (
        0.7,
        policy.family.guidance_scale(policy.pipeline),
    )
    assert after.overall.reward_mean != before.overall.reward_mean and after.overall.gain is not None


@pytest.mark.parametrize("lora_rank", [4, 0])
def test_training_goes_on_from_a_saved_policy(pipeline: Path, lora_rank: int, tmp_path: Path) -> None:
    """The policy of an earlier run, LoRA or all weights, is the one that starts, to the last bit."""
    saved, again = load_model(str(pipeline)), load_model(str(pipeline))
    parameters = trainable_parameters(saved, lora_rank=lora_rank, seed=0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += 0.01
    save_policy(saved, tmp_path / "policy")
    trainable_parameters(again, lora_rank=lora_rank, seed=1)
    adapter = str(tmp_path / "policy") if lora_rank else None
    whole = str(pipeline) if lora_rank else str(tmp_path / "policy")
    assert start_from(again, tmp_path / "policy") == load_model(whole, adapter=adapter).fingerprint
    asked = some_inputs(saved)
    with torch.no_grad():
        assert torch.equal(network(saved)(*asked), network(again)(*asked))


def test_xl_sees_every_condition_that_it_adds(tmp_path: Path) -> None:
    """The second text encoder, the pooled embedding and the image's size each change the prediction."""
    model = load_model(str(save_tiny_xl_pipeline(tmp_path / "xl")))
    latents, timesteps, condition = some_inputs(model)
    assert {name: tuple(value.shape[1:]) for name, value in condition.items()} == {
        "prompt_embeds": (16, 32),
        "pooled_embeds": (12,),
        "time_ids": (6,),
    }
    assert condition["time_ids"][0].tolist() == [16, 16, 0, 0, 16, 16]
    predict = network(model)
    with torch.no_grad():
        usual = predict(latents, timesteps, condition)
        for name, value in condition.items():
            for part in range(2):
                half = value.shape[-1] // 2
                changed = value.clone()
                changed[..., part * half : (part + 1) * half] += 1
                assert not torch.equal(predict(latents, timesteps, {**condition, name: changed}), usual)


def test_xl_without_a_negative_prompt_steers_away_from_zeros(tmp_path: Path) -> None:
    """As diffusers does for SDXL (force_zeros_for_empty_prompt); a written one is embedded."""
    model = load_model(str(save_tiny_xl_pipeline(tmp_path / "xl")))
    none, written = (embed_prompts(model, ["a cat"], text, 3.0).negative for text in ("", "blurry"))
    assert none is not None and written is not None
    assert not none["prompt_embeds"].any() and not none["pooled_embeds"].any() and none["time_ids"].any()
    assert written["prompt_embeds"].any() and written["pooled_embeds"].any()


def test_a_class_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(
        ConfigError, match=r"is a KandinskyPipeline: supported are StableDiffusionPipeline, Stable"
    ):
        load_model(str(tmp_path))
