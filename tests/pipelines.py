"""Tiny real pipelines of every supported class: random weights, the real diffusers classes, nothing to download.

All have 8×8 latents of 4 channels, 16×16 pixels, and a text encoder that reads characters.
"""

import json
from pathlib import Path
from typing import Any

import torch

SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_TEXT = {
    "vocab_size": 514,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 513,
}


def save_tiny_pipeline(folder: Path, *, seed: int = 0, **scheduler_options: object) -> Path:
    """Write a random StableDiffusionPipeline (60k UNet weights): 1.x, or 2.x by its scheduler's options."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    pipeline = StableDiffusionPipeline(
        unet=_unet(cross_attention_dim=16, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D")),
        vae=_vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**_TEXT, num_hidden_layers=1)),
        tokenizer=byte_tokenizer(folder.parent / f"{folder.name}-tokenizer"),
        scheduler=DDIMScheduler(**SCHEDULER | scheduler_options),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_tiny_xl_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """Write a random StableDiffusionXLPipeline: two text encoders, added conditions, an Euler scheduler."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    config = CLIPTextConfig(**_TEXT, num_hidden_layers=2, projection_dim=12)
    pipeline = StableDiffusionXLPipeline(
        unet=_unet(
            cross_attention_dim=32,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 12,
        ),
        vae=_vae(),
        text_encoder=CLIPTextModel(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=byte_tokenizer(folder.parent / f"{folder.name}-tokenizer"),
        tokenizer_2=byte_tokenizer(folder.parent / f"{folder.name}-tokenizer-2"),
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            timestep_spacing="leading",
            steps_offset=1,
        ),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def byte_tokenizer(folder: Path, length: int = 16) -> Any:
    """A CLIP tokenizer of single characters: the 256 byte symbols, alone and at a word's end, without merges."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(code) for code in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    vocabulary = symbols + [f"{symbol}</w>" for symbol in symbols] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)


def _unet(**options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
        **options,
    )


def _vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
