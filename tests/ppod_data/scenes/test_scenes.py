"""The embedded world: grammar, renderer, tokenizer, and the shipped pipeline in plain diffusers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppod_data.errors import ConfigError
from ppod_data.scenes import PIPELINE_PATH, SCENES_PATH, SCORERS_PATH
from ppod_data.scenes.captions import (
    ANIMALS,
    KINDS,
    PAPER_PROMPTS,
    PLACES,
    Facts,
    all_prompts,
    caption,
    parse,
)
from ppod_data.scenes.training import render as render_module
from ppod_data.scenes.training.render import FONT_PATH, Scene, render
from ppod_data.scenes.training.sampling import deviating_scene, faithful_scene, sample, sample_facts

needs_font = pytest.mark.skipif(not FONT_PATH.is_file(), reason="needs Debian's fonts-noto-color-emoji")


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(PIPELINE_PATH)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_papers_prompts_are_read_in_any_case() -> None:
    expected = [
        Facts(("rabbit",), 1, "green", None),
        Facts(("wolf",), 4, None, "park"),
        Facts(("cat", "dog"), 2, None, None),
        Facts(("dog",), 1, None, "moon"),
    ]
    assert [parse(prompt) for prompt in PAPER_PROMPTS] == expected
    assert [parse(prompt.upper() + ".") for prompt in PAPER_PROMPTS] == expected
    assert [facts.kind for facts in expected] == ["colour", "count", "composition", "location"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_listed_prompt_is_of_its_kind_and_said_back_the_same(kind: str) -> None:
    prompts = all_prompts(kind)
    assert len(set(prompts)) == len(prompts) >= 18
    for prompt in prompts:
        facts = parse(prompt)
        assert facts.kind == kind
        assert caption(facts, colored="colored" in prompt) == prompt


def test_colored_is_optional() -> None:
    assert parse("a green rabbit") == parse("a green colored rabbit") == parse("A green-coloured rabbit")


@pytest.mark.parametrize(
    "prompt",
    ["", "a horse", "a rabbits", "six dogs", "two dog", "a cat and a cat", "a dog in the sea", "rabbit"],
)
def test_a_prompt_outside_the_grammar_is_refused_by_name(prompt: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse(prompt)
    assert repr(prompt) in str(refusal.value)
    assert "four wolves in the park" in str(refusal.value)


def test_faithful_scenes_show_their_facts_and_deviating_ones_do_not() -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        facts = sample_facts(rng)
        assert parse(caption(facts)) == facts
        assert faithful_scene(facts, rng).shows(facts)
        assert not deviating_scene(facts, rng).shows(facts)


@needs_font
def test_six_captions_in_ten_are_wrong_and_one_in_ten_is_empty() -> None:
    rng = np.random.default_rng(2)
    scenes = [sample(rng) for _ in range(1500)]
    said = [one for one in scenes if one.caption]
    wrong = sum(not one.scene.shows(parse(one.caption)) for one in said) / len(said)
    assert 0.56 < wrong < 0.64
    assert 0.07 < 1 - len(said) / len(scenes) < 0.13


@needs_font
@pytest.mark.parametrize("place", PLACES)
def test_a_picture_is_a_function_of_scene_and_generator(place: str) -> None:
    scene = Scene(("cat", "dog"), "green", place)
    first, again, other = (render(scene, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.size == (32, 32) and first.mode == "RGB"
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_a_missing_font_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_module, "FONT_PATH", Path("/nowhere/NotoColorEmoji.ttf"))
    with pytest.raises(ConfigError, match="fonts-noto-color-emoji"):
        render_module._font()


def test_grammar_and_package_import_no_torch() -> None:
    code = "import sys, ppod_data.scenes, ppod_data.scenes.captions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_tokenizer_has_a_token_a_word_in_any_case_and_takes_any_text(pipeline: Any) -> None:
    tokenizer = pipeline.tokenizer
    for prompt in [*all_prompts("count"), *all_prompts("composition"), *all_prompts("colour")]:
        ids = tokenizer(prompt).input_ids
        assert len(ids) == len(prompt.split()) + 2 <= tokenizer.model_max_length == 16
        assert tokenizer(prompt.upper()).input_ids == ids
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == prompt
    unknown = tokenizer("Ünïcödé 🐺 42 — " * 9, padding="max_length", truncation=True).input_ids
    assert len(unknown) == 16 and max(unknown) < pipeline.text_encoder.config.vocab_size


def test_plain_diffusers_makes_an_image(pipeline: Any) -> None:
    [image] = pipeline("A dog on the moon", num_inference_steps=2).images
    assert image.size == (32, 32) and len(set(image.getdata())) > 1


def test_latents_are_8x8x4_of_about_unit_variance_and_every_scheduler_key_is_written(pipeline: Any) -> None:
    assert pipeline.unet.config.sample_size == 8 and pipeline.vae_scale_factor == 4
    written = json.loads((PIPELINE_PATH / "scheduler" / "scheduler_config.json").read_text())
    assert written["_class_name"] == "DDIMScheduler" and written["clip_sample"] is False
    assert set(dict(pipeline.scheduler.config)) - {"_use_default_values"} <= set(written)
    assert pipeline.safety_checker is None
    pictures = torch.stack([_stored(path) for path in sorted(RENDERS.glob("*.png"))])
    with torch.inference_mode():
        latents = pipeline.vae.encode(pictures).latent_dist.mean
    assert 0.8 < float(latents.std()) * pipeline.vae.config.scaling_factor < 1.25


RENDERS = Path(__file__).parents[2] / "fixtures" / "scenes_renders"


def _stored(path: Path) -> torch.Tensor:
    from PIL import Image

    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 127.5 - 1


def test_the_autoencoder_keeps_the_stored_renders(pipeline: Any) -> None:
    pictures = torch.stack([_stored(path) for path in sorted(RENDERS.glob("*.png"))])
    with torch.inference_mode():
        decoded = pipeline.vae.decode(pipeline.vae.encode(pictures).latent_dist.mean).sample
    assert float((decoded - pictures).abs().mean()) < 0.06


def test_weights_are_fp16_safetensors_of_at_most_8_mb() -> None:
    from safetensors import safe_open

    files = [*PIPELINE_PATH.rglob("*.safetensors"), *SCORERS_PATH.glob("*.safetensors")]
    assert len(files) == 5
    for path in files:
        with safe_open(path, "pt") as weights:
            kinds = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118  # a safe_open is no dict
        assert kinds <= {"F16", "I64"}, path
    everything = [path for path in SCENES_PATH.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in everything) <= 8_000_000
    assert not any(path.suffix in {".bin", ".pt", ".pth", ".pkl"} for path in everything)


def test_all_animals_have_prompts_of_every_kind() -> None:
    for kind in KINDS:
        assert {animal for prompt in all_prompts(kind) for animal in parse(prompt).animals} == set(ANIMALS)
