"""A comparison: what is loaded, and what is refused before anything is evaluated."""

from pathlib import Path

import pytest

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError
from ppod_train import compare
from ppod_train.library.comparing import _on_baseline
from tests.support.loras import factors, folder, named
from tests.support.pipelines import save_tiny_xl_pipeline

KEYS = ("unet.{}.lora_A.weight", "unet.{}.lora_B.weight")


def test_a_loaded_baseline_is_not_loaded_again(tiny_model: DiffusionModel, tmp_path: Path) -> None:
    adapter = str(folder(tmp_path / "lora", named(factors(tiny_model.denoiser), *KEYS)))
    source = ModelSource(model=tiny_model.name, adapter=adapter)
    policy = _on_baseline(source, tiny_model, "cpu")
    assert isinstance(policy, DiffusionModel)
    assert policy.pipeline.vae is tiny_model.pipeline.vae
    assert (policy.adapter, tiny_model.adapter) == (adapter, None)
    for other in (ModelSource(model="other", adapter=adapter), ModelSource(model=tiny_model.name)):
        assert _on_baseline(other, tiny_model, "cpu") == other
    assert _on_baseline(source, tiny_model, "cuda") == source
    assert _on_baseline(source, ModelSource(model=tiny_model.name), "cpu") == source


@pytest.mark.parametrize("fault", ["no weights", "another network"])
def test_an_adapter_is_read_before_the_baseline_is_evaluated(
    fault: str, tiny_model: DiffusionModel, tmp_path: Path
) -> None:
    adapter = folder(tmp_path / "lora", named(factors(tiny_model.denoiser), *KEYS))
    model, message = tiny_model.name, "holds no LoRA weights"
    if fault == "another network":
        model, message = str(save_tiny_xl_pipeline(tmp_path / "xl")), "does not fit"
    else:
        adapter = tmp_path
    with pytest.raises(ConfigError, match=message):
        compare(
            ModelSource(model=model, adapter=str(adapter)),
            tmp_path / "out",
            reward="jpeg-compressibility",
            prompts=("a cat",),
            num_images_per_prompt=1,
            num_inference_steps=2,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (
            "runs/animals/policy",
            r"adapter runs/animals/policy is not here: give a folder with [\w.]+, or a [^;]+$",
        ),
        (
            "owner/name",
            r"adapter owner/name is not here: .*; .*hf download owner/name --local-dir FOLDER gets one$",
        ),
        (
            "lora",
            "no prompts: lora is in no folder of a run, whose prompts would be taken: give --prompt TEXT",
        ),
    ],
)
def test_what_is_wrong_with_an_adapter_is_said_before_prompts_are_asked_for(
    tiny_model: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder(Path("lora"), named(factors(tiny_model.denoiser), *KEYS))
    with pytest.raises(ConfigError, match=message):
        compare(ModelSource(model=tiny_model.name, adapter=adapter), "out", reward="jpeg-compressibility")
    assert not Path("out").exists()
