"""The policy of a comparison is an adapter on the loaded baseline where that is its model."""

from pathlib import Path

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.source import ModelSource
from ppod_train.library.comparing import _on_baseline
from tests.support.loras import factors, folder, named

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
