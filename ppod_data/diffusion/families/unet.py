"""Common parts of the pipelines with a UNet: Stable Diffusion 1.x, 2.x and XL."""

from collections.abc import Mapping
from typing import Any

from ppod_data.diffusion.ddim import ddim_config
from ppod_data.diffusion.families.family import CLIP_TOKENIZER

UNET_FREE = frozenset(
    [
        "sample_size",
        "center_input_sample",
        "flip_sin_to_cos",
        "freq_shift",
        "down_block_types",
        "mid_block_type",
        "up_block_types",
        "only_cross_attention",
        "block_out_channels",
        "layers_per_block",
        "downsample_padding",
        "mid_block_scale_factor",
        "dropout",
        "act_fn",
        "norm_num_groups",
        "norm_eps",
        "cross_attention_dim",
        "transformer_layers_per_block",
        "reverse_transformer_layers_per_block",
        "attention_head_dim",
        "num_attention_heads",
        "dual_cross_attention",
        "use_linear_projection",
        "upcast_attention",
        "resnet_time_scale_shift",
        "resnet_skip_time_act",
        "resnet_out_scale_factor",
        "time_embedding_dim",
        "time_embedding_act_fn",
        "timestep_post_act",
        "conv_in_kernel",
        "conv_out_kernel",
        "mid_block_only_cross_attention",
        "cross_attention_norm",
        "addition_embed_type_num_heads",
        "in_channels",
        "out_channels",
    ]
)
UNET_BOUND: Mapping[str, Any] = {
    "time_cond_proj_dim": None,
    "class_embed_type": None,
    "num_class_embeds": None,
    "class_embeddings_concat": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None,
    "time_embedding_type": "positional",
    "attention_type": "default",
}
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "scheduler": (),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": CLIP_TOKENIZER,
}
NOISE_LEVEL = 1.0
"""DDIM's η by default: the most variance, and what DDPO, DPOK and D3PO use."""


def latent_shape(pipeline: Any) -> tuple[int, int, int]:
    """(C, H, W) of an image of the pipeline's own size."""
    size = pipeline.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return pipeline.unet.config.in_channels, height, width


def patches(pipeline: Any) -> tuple[int, int | None]:
    """Return the latents on a side of a patch, 1, and the most patches on a side of an image: no bound."""
    return 1, None


def scheduler_config(pipeline: Any, latent_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the complete DDIM configuration of the pipeline's scheduler."""
    return ddim_config(type(pipeline.scheduler).__name__, pipeline.scheduler.config)


def guidance_scale(pipeline: Any) -> float:
    """Return the default, that of DDPO, D3PO, SPO and PRDP."""
    return 5.0
