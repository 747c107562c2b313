"""The configurations of full-size models, written as pipeline folders without weights.

From the public model cards' config.json files; the numbers of weights that they give are checked in test_plan.py. The
tokenizer reads characters, which is enough: only the number of tokens counts.
"""

import json
from pathlib import Path
from typing import Any

from tests.pipelines import SCHEDULER, byte_tokenizer

_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_CLIP_BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}


def save_stable_diffusion_15(folder: Path) -> Path:
    """Stable Diffusion 1.5: 512 × 512 pixels, a UNet of 859.5 million weights."""
    unet = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    }
    _write(
        folder,
        "StableDiffusionPipeline",
        unet=("diffusers", unet),
        vae=("diffusers", _VAE | {"sample_size": 512}),
        text_encoder=("transformers", {"_class_name": "CLIPTextModel", **_CLIP_L}),
        scheduler=("diffusers", {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **SCHEDULER}),
    )
    return folder


def save_stable_diffusion_xl(folder: Path) -> Path:
    """Stable Diffusion XL base 1.0: 1024 × 1024 pixels, a UNet of 2,567 million weights."""
    unet = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    _write(
        folder,
        "StableDiffusionXLPipeline",
        {"force_zeros_for_empty_prompt": True},
        unet=("diffusers", unet),
        vae=("diffusers", _VAE | {"sample_size": 1024, "force_upcast": True}),
        text_encoder=("transformers", {"_class_name": "CLIPTextModel", **_CLIP_L}),
        text_encoder_2=("transformers", {"_class_name": "CLIPTextModelWithProjection", **_CLIP_BIG_G}),
        scheduler=("diffusers", {"_class_name": "EulerDiscreteScheduler", **SCHEDULER}),
    )
    return folder


def _write(
    folder: Path, class_name: str, options: dict[str, Any] | None = None, **parts: tuple[str, dict[str, Any]]
) -> None:
    index: dict[str, Any] = {"_class_name": class_name, **(options or {})}
    for name, (library, config) in parts.items():
        index[name] = [library, config["_class_name"]]
        (folder / name).mkdir(parents=True)
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / name / file).write_text(json.dumps(config))
        if name.startswith("text_encoder"):
            tokenizer = name.replace("text_encoder", "tokenizer")
            byte_tokenizer(folder / f"raw-{tokenizer}", length=77).save_pretrained(folder / tokenizer)
            index[tokenizer] = ["transformers", "CLIPTokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index))
