"""LoRA files for ComfyUI, as ai-toolkit writes them, are the policies that diffusers makes of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from ppod_data.diffusion.models.model import embed_prompts, load_model
from ppod_data.errors import ConfigError
from tests.support.transformer_pipelines import (
    save_tiny_klein_pipeline,
    save_tiny_pixart_pipeline,
    save_tiny_qwen_image_pipeline,
    save_tiny_z_image_pipeline,
)

# The modules' names in such files, with (in, out); FLUX.2's are those of its original code.
CASES: Mapping[str, tuple[Callable[[Path], Path], Mapping[str, tuple[int, int]], bool]] = {
    "z-image": (save_tiny_z_image_pipeline, {"layers.0.attention.to_q": (32, 32)}, True),
    "qwen-image": (save_tiny_qwen_image_pipeline, {"transformer_blocks.0.attn.to_v": (32, 32)}, True),
    "flux2-klein": (save_tiny_klein_pipeline, {"double_blocks.0.img_attn.qkv": (32, 96)}, False),
}


def write(file: Path, modules: Mapping[str, tuple[int, int]], *, alpha: bool) -> Path:
    """Write factors of rank 2, with a scale of a quarter or without."""
    tensors: dict[str, torch.Tensor] = {}
    for name, (inputs, outputs) in modules.items():
        down, up = torch.randn(2, inputs), torch.randn(outputs, 2)
        words = ("lora_down", "lora_up") if alpha else ("lora_A", "lora_B")
        for word, value in zip(words, (down, up), strict=True):
            tensors[f"diffusion_model.{name}.{word}.weight"] = value
        if alpha:
            tensors[f"diffusion_model.{name}.alpha"] = torch.tensor(0.5)
    save_file(tensors, file)
    return file


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_a_file_for_comfyui_is_the_policy_that_diffusers_makes_of_it(name: str, tmp_path: Path) -> None:
    save, modules, alpha = CASES[name]
    folder = save(tmp_path / "model")
    torch.manual_seed(0)
    file = write(tmp_path / "lora.safetensors", modules, alpha=alpha)
    model = load_model(str(folder))
    condition = embed_prompts(model, ["a cat"], "", 1.0).of([0])
    latents = torch.randn(1, model.latent_shape[0], 8, 8)

    def predicted(pipeline: Any) -> torch.Tensor:
        return model.family.predict(pipeline.transformer, latents, torch.tensor([500.0]), condition)

    plain = getattr(diffusers, type(model.pipeline).__name__).from_pretrained(folder)
    plain.load_lora_weights(str(file))
    ours = predicted(load_model(str(folder), adapter=str(file)).pipeline)
    torch.testing.assert_close(ours, predicted(plain), rtol=0, atol=1e-5)
    assert not torch.allclose(ours, predicted(model.pipeline), atol=1e-3)
    other = write(tmp_path / "other.safetensors", {"layers.9.attention.to_q": (32, 32)}, alpha=alpha)
    with pytest.raises(ConfigError, match="does not fit"):
        load_model(str(folder), adapter=str(other))


def test_a_file_for_comfyui_is_refused_where_diffusers_reads_none(tmp_path: Path) -> None:
    folder = save_tiny_pixart_pipeline(tmp_path / "model")
    file = write(tmp_path / "lora.safetensors", {"blocks.0.attn.proj": (16, 16)}, alpha=False)
    with pytest.raises(
        ConfigError, match="ComfyUI, which diffusers does not read for this model: give peft's"
    ):
        load_model(str(folder), adapter=str(file))
