"""The code of a policy's card, executed for every family: diffusers' own call makes the run's images."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppod_data.diffusion.models.model import DiffusionModel, decode_images, load_model
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.sampling import build_policy, sample_batch
from ppod_train.run.run_folder import generation_of
from ppod_train.run.usage import own_call, usage
from tests.support.families import CASES, Layout, packed, unpacked
from tests.support.pipelines import (
    save_tiny_flux_pipeline,
    save_tiny_pipeline,
    save_tiny_sd3_pipeline,
    save_tiny_sd35_pipeline,
    save_tiny_xl_pipeline,
)
from tests.support.transformer_pipelines import save_tiny_pixart_pipeline

STEPS = 4
PROMPT = 'a cat, "red"; see https://cats.example'


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A family: its tiny pipeline, and how its chain is asked for."""

    save: Callable[[Path], Path]
    given: Layout = unpacked
    """The layout of the `latents` of the pipeline's call."""
    scale: float = 3.0
    size: tuple[int, int] = (16, 24)
    negative: bool = True
    """Whether the family reads a negative prompt."""


V_PREDICTION = {
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
KINDS: Mapping[str, Kind] = {
    "sd-1": Kind(save=save_tiny_pipeline),
    "sd-2": Kind(save=partial(save_tiny_pipeline, **V_PREDICTION)),
    "sd-xl": Kind(save=save_tiny_xl_pipeline),
    "pixart-sigma": Kind(save=save_tiny_pixart_pipeline),
    "sd-3": Kind(save=save_tiny_sd3_pipeline),
    "sd-3.5": Kind(save=save_tiny_sd35_pipeline),
    "flux-dev": Kind(save=save_tiny_flux_pipeline, given=packed, negative=False),
    "flux-schnell": Kind(
        save=partial(save_tiny_flux_pipeline, guidance_embeds=False), given=packed, scale=1.0, negative=False
    ),
    **{
        name: Kind(save=case.save, given=case.given, scale=case.scale, size=case.size, negative=case.negative)
        for name, case in CASES.items()
    },
    "z-image-turbo": Kind(save=CASES["z-image"].save, scale=1.0),
}
PROMPTED = [(name, "") for name in KINDS] + [(name, 'a "bad" one') for name in KINDS if KINDS[name].negative]


def nearly_noiseless(model: DiffusionModel, kind: Kind, negative_prompt: str) -> GenerationSpec:
    height, width = kind.size
    return build_spec(
        model,
        prompts=[PROMPT],
        num_images_per_prompt=1,
        num_inference_steps=STEPS,
        guidance_scale=kind.scale,
        guidance_mode="sequential",
        negative_prompt=negative_prompt,
        ddim_eta=1e-6,
        height=height,
        width=width,
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DiffusionModel]:
    """A function that returns the tiny model of a name, made once."""
    root, made = tmp_path_factory.mktemp("models"), dict[str, DiffusionModel]()

    def load(name: str) -> DiffusionModel:
        if name not in made:
            made[name] = load_model(str(KINDS[name].save(root / name)))
        return made[name]

    return load


@pytest.mark.parametrize(("name", "negative_prompt"), PROMPTED)
def test_the_code_of_the_card_makes_the_runs_image(
    name: str, negative_prompt: str, models: Callable[[str], DiffusionModel]
) -> None:
    """With the run's x_T, pixels differ by rounding at most; only the folder and x_T are filled in."""
    model, kind = models(name), KINDS[name]
    spec = nearly_noiseless(model, kind, negative_prompt)
    chain = sample_batch(spec, build_policy(spec, model), range(1), record=True)
    record = {
        "model": model.name,
        "prompts": [PROMPT],
        "generation": generation_of(spec),
        "own_call": own_call(model, spec),
    }
    code = usage(record, lora=False).split("```python\n")[1].split("```")[0]
    code = code.replace("THIS_FOLDER", model.name).replace("image = pipe(", "image = pipe(latents=x_T, ")
    names: dict[str, Any] = {"x_T": kind.given(model.pipeline, chain.latents[0]).clone()}
    exec(code, names)
    (ours,) = decode_images(model, chain.latents[-1])
    assert ours.size == names["image"].size == kind.size[::-1]
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(names["image"]).astype(int)).max() <= 1


def test_the_card_says_where_diffusers_steps_end_elsewhere(models: Callable[[str], DiffusionModel]) -> None:
    """The trailing timesteps of 4 steps have diffusers' distance, and those of 3 have not."""
    model = models("sd-2")
    for num_steps, same in ((4, True), (3, False)):
        spec = build_spec(model, prompts=["a cat"], num_inference_steps=num_steps)
        call = own_call(model, spec)
        record = {
            "model": "a/b",
            "prompts": [],
            "generation": generation_of(spec),
            "own_call": json.loads(json.dumps(call)),
        }
        assert call["same_steps"] == same and ("fixed distance" in usage(record, lora=True)) != same


def test_the_card_says_what_the_run_drew_beyond_the_call(models: Callable[[str], DiffusionModel]) -> None:
    for name, window, steps in (
        ("sd-1", "0:4", None),
        ("sd-1", "1:2", "step 1"),
        ("sd-3", "0:2", "steps 0 to 1"),
    ):
        spec = build_spec(models(name), prompts=["a cat"], num_inference_steps=STEPS, noisy_steps=window)
        text = usage({"model": "a/b", "prompts": [], "generation": generation_of(spec)}, lora=True)
        assert ("drew noise" in text) == (steps is not None) and (steps or "eta=1.0") in text


def test_the_card_of_a_run_without_a_record_of_the_call_is_complete(tiny_pipeline: Path) -> None:
    """Runs of the time before that record are resumed, and their cards are written again."""
    generation = {
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "negative_prompt": "",
        "height": 16,
        "width": 24,
    }
    record = {"model": "a/b", "prompts": ["a cat"], "generation": generation}
    code = usage(record, lora=False).split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("THIS_FOLDER", str(tiny_pipeline)), names)
    assert names["image"].size == (24, 16)
