"""An adapter on a loaded model is that of `load_model`, and the loaded model stays as it was."""

from pathlib import Path

import torch

from ppod_data.diffusion.models.copies import with_adapter
from ppod_data.diffusion.models.model import DiffusionModel, load_model
from tests.support.loras import factors, folder, named
from tests.support.pipelines import save_tiny_pipeline

KEYS = ("unet.{}.lora_A.weight", "unet.{}.lora_B.weight")


def state(model: DiffusionModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.denoiser.state_dict().items()}


def test_an_adapter_on_a_loaded_model_is_as_loaded_with_it(tmp_path: Path) -> None:
    name = str(save_tiny_pipeline(tmp_path / "model"))
    model, before = load_model(name), state(load_model(name))
    adapter = str(folder(tmp_path / "lora", named(factors(model.denoiser), *KEYS)))
    made, loaded = with_adapter(model, adapter), load_model(name, adapter=adapter)
    assert (made.fingerprint, made.adapter, made.name) == (loaded.fingerprint, adapter, name)
    assert state(made).keys() == state(loaded).keys()
    assert all(torch.equal(value, state(loaded)[key]) for key, value in state(made).items())
    assert all(torch.equal(value, before[key]) for key, value in state(model).items())
    assert made.pipeline.vae is model.pipeline.vae
    assert model.adapter is None
