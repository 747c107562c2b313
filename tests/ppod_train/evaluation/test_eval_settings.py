"""An evaluation samples as the data set did, in as much memory, by steps whose noise later steps remove."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.diffusion.noise_left import final_std, noise_left
from ppod_data.diffusion.schedule import spec_schedule
from ppod_data.errors import ConfigError
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.given_images import build_forward_spec
from ppod_train.evaluation.evaluate import eval_spec, evaluate, filled_settings
from ppod_train.evaluation.files import read_evaluation, write_evaluation
from ppod_train.evaluation.settings import EvalSettings, guidance_mode_of, sampler_of
from ppod_train.library.ranks import eval_job
from ppod_train.run.run_folder import generation_of
from tests.ppod_train.conftest import Redness
from tests.support.network_rows import network_rows
from tests.support.pipelines import (
    save_tiny_flux_pipeline,
    save_tiny_pipeline,
    save_tiny_sd3_pipeline,
)
from tests.support.transformer_pipelines import save_tiny_qwen_image_pipeline

GIVEN: dict[str, Any] = {"prompts": ["a cat"], "images": [["0" * 64]]}


@pytest.mark.parametrize("num_steps", [10, 20])
@pytest.mark.parametrize(
    "save", [save_tiny_sd3_pipeline, save_tiny_flux_pipeline, save_tiny_qwen_image_pipeline]
)
def test_given_images_leave_no_noise_in_the_images_of_a_flow_models_evaluation(
    save: Callable[[Path], Path], num_steps: int, tmp_path: Path
) -> None:
    """Their window, every step, is that of coefficient-preserving steps, which the sampler does not take."""
    model = load_skeleton(str(save(tmp_path / "model")))
    given = build_forward_spec(model, **GIVEN, num_inference_steps=num_steps)
    assert given.window == f"0:{num_steps}"
    settings = EvalSettings(prompts=("a cat",), **sampler_of(given))
    spec = eval_spec(model, settings)
    assert noise_left(spec) is None
    assert spec.window == build_spec(model, ["a cat"], num_inference_steps=num_steps).window
    assert generation_of(given)["noisy_steps"] is None


def test_noise_of_every_step_would_stay_in_the_images_of_stable_diffusion_3(tmp_path: Path) -> None:
    """Of the 0.05 of fine detail, 0.24 with the window of the given images, and 0.02 without."""
    model = load_skeleton(str(save_tiny_sd3_pipeline(tmp_path / "model")))
    given = build_forward_spec(model, **GIVEN, num_inference_steps=10)
    before, after = (
        eval_spec(model, EvalSettings(prompts=("a cat",), **sampler_of(given) | changes))
        for changes in ({"noisy_steps": given.window}, {})
    )
    assert final_std(spec_schedule(before), 0.05) == pytest.approx(0.239, abs=0.001)
    assert final_std(spec_schedule(after), 0.05) < 0.02


@pytest.mark.parametrize("window", ["0:1", "1:3"])
def test_the_window_is_that_of_the_data_where_the_steps_are_the_same(window: str, tmp_path: Path) -> None:
    flow = load_skeleton(str(save_tiny_sd3_pipeline(tmp_path / "sd-3")))
    ddim = load_skeleton(str(save_tiny_pipeline(tmp_path / "sd")))
    options = {"num_inference_steps": 8, "noisy_steps": window}
    for spec in (
        build_spec(flow, ["a cat"], **options),
        build_spec(ddim, ["a cat"], **options),
        build_forward_spec(ddim, **GIVEN, **options),
    ):
        assert sampler_of(spec)["noisy_steps"] == generation_of(spec)["noisy_steps"] == window


GUIDED = EvalSettings(
    prompts=("a cat",), num_images_per_prompt=4, num_inference_steps=2, batch_size=4, guidance_scale=3.0
)


def test_guidance_in_two_calls_takes_half_of_the_rows(tiny_model: DiffusionModel, tmp_path: Path) -> None:
    """The images are the same up to rounding, so an evaluation continues one of the other mode."""
    with network_rows() as rows:
        batched = evaluate(tiny_model, Redness(), GUIDED)
    assert rows == {8}
    write_evaluation(tmp_path, batched)
    with network_rows() as rows:
        sequential = evaluate(
            tiny_model,
            Redness(),
            replace(GUIDED, guidance_mode="sequential"),
            baseline=read_evaluation(tmp_path),
        )
    assert rows == {4}
    assert sequential.overall.gain == pytest.approx(0, abs=1e-3)
    write_evaluation(tmp_path, sequential)
    assert read_evaluation(tmp_path).settings == sequential.settings == batched.settings


def test_the_guidance_mode_is_that_of_the_data(tiny_model: DiffusionModel) -> None:
    for mode in ("batched", "sequential"):
        spec = build_spec(tiny_model, ["a cat"], guidance_scale=3.0, guidance_mode=mode)
        settings = EvalSettings(prompts=("a cat",), **sampler_of(spec))
        assert generation_of(spec)["guidance_mode"] == guidance_mode_of(settings) == mode
        assert guidance_mode_of(replace(settings, seed=1)) == mode
        assert guidance_mode_of(filled_settings(tiny_model, settings)) == mode
        assert eval_spec(tiny_model, settings).guidance_mode == mode
    assert guidance_mode_of(EvalSettings()) == "batched"


def test_an_unknown_guidance_mode_is_refused() -> None:
    settings = EvalSettings(prompts=("a cat",), guidance_mode=cast(Any, "both"))
    with pytest.raises(ConfigError, match="guidance_mode both is unknown: batched, sequential are known"):
        settings.validate()


def test_an_evaluation_is_planned_in_the_guidance_mode_that_it_takes(tiny_pipeline: Path) -> None:
    options = {"prompts": ("a cat",), "guidance_scale": 3.0, "num_images_per_prompt": 64}
    two, one = (
        eval_job(ModelSource(model=str(tiny_pipeline)), options | {"guidance_mode": mode}, 1).memory()
        for mode in ("batched", "sequential")
    )
    assert one < two
