"""The configurations of full-size models, written as pipeline folders without weights.

From the public model cards' config.json files; the numbers of weights that they give are checked in test_plan.py. The
tokenizer reads characters, which is enough: only the number of tokens counts.
"""

import json
from pathlib import Path
from typing import Any

from tests.support.pipelines import SCHEDULER, byte_tokenizer
from tests.support.transformer_pipelines import gemma_tokenizer, pixtral_processor, qwen_tokenizer

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
_FLOW_VAE = {
    "latent_channels": 16,
    "sample_size": 1024,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_T5 = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "vocab_size": 32128,
}
_SD3 = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
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


def save_stable_diffusion_3(folder: Path) -> Path:
    """Stable Diffusion 3 medium without T5: 1024 × 1024 pixels, a transformer of 2,028 million weights."""
    return _save_sd3(folder, _SD3, t5=False)


def save_stable_diffusion_35_medium(folder: Path, *, t5: bool = True) -> Path:
    """Stable Diffusion 3.5 medium: 1024 × 1024 pixels, a transformer of 2,243 million weights."""
    new = {"pos_embed_max_size": 384, "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm"}
    return _save_sd3(folder, _SD3 | new, t5=t5)


def _save_sd3(folder: Path, transformer: dict[str, Any], *, t5: bool) -> Path:
    clip = "CLIPTextModelWithProjection"
    third = {"text_encoder_3": ("transformers", {"_class_name": "T5EncoderModel", **_T5})}
    _write(
        folder,
        "StableDiffusion3Pipeline",
        {} if t5 else {"text_encoder_3": [None, None], "tokenizer_3": [None, None]},
        transformer=("diffusers", transformer),
        vae=("diffusers", _VAE | _FLOW_VAE),
        text_encoder=("transformers", {"_class_name": clip, **_CLIP_L}),
        text_encoder_2=("transformers", {"_class_name": clip, **_CLIP_BIG_G}),
        scheduler=("diffusers", {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}),
        **(third if t5 else {}),
    )
    return folder


def save_flux_1_dev(folder: Path) -> Path:
    """FLUX.1-dev: 1024 × 1024 pixels, a transformer of 11,901 million weights, which are diffusers' defaults."""
    shift = {"shift": 3.0, "use_dynamic_shifting": True}
    _write(
        folder,
        "FluxPipeline",
        transformer=("diffusers", {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True}),
        vae=("diffusers", _VAE | _FLOW_VAE),
        text_encoder=("transformers", {"_class_name": "CLIPTextModel", **_CLIP_L}),
        text_encoder_2=("transformers", {"_class_name": "T5EncoderModel", **_T5}),
        scheduler=("diffusers", {"_class_name": "FlowMatchEulerDiscreteScheduler", **shift}),
    )
    return folder


def save_chroma(folder: Path) -> Path:
    """Chroma: 1024 × 1024 pixels, a transformer of diffusers' defaults, and FLUX.1's schedule."""
    shift = {"shift": 3.0, "use_dynamic_shifting": True}
    _write(
        folder,
        "ChromaPipeline",
        transformer=("diffusers", {"_class_name": "ChromaTransformer2DModel"}),
        vae=("diffusers", _VAE | _FLOW_VAE),
        text_encoder=("transformers", {"_class_name": "T5EncoderModel", **_T5}),
        scheduler=("diffusers", {"_class_name": "FlowMatchEulerDiscreteScheduler", **shift}),
    )
    return folder


def save_pixart_sigma(folder: Path) -> Path:
    """PixArt-Sigma-XL-2-1024-MS: 1024 × 1024 pixels, a transformer of 611 million weights."""
    transformer = {
        "_class_name": "Transformer2DModel",
        "in_channels": 4,
        "out_channels": 8,
        "sample_size": 128,
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "num_layers": 28,
        "cross_attention_dim": 1152,
        "caption_channels": 4096,
        "interpolation_scale": 2,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "use_additional_conditions": False,
        "num_vector_embeds": None,
        "double_self_attention": False,
    }
    betas = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "solver_order": 2}
    _write(
        folder,
        "PixArtSigmaPipeline",
        transformer=("diffusers", transformer),
        vae=("diffusers", _VAE | {"sample_size": 1024, "scaling_factor": 0.13025}),
        text_encoder=("transformers", {"_class_name": "T5EncoderModel", **_T5}),
        scheduler=("diffusers", {"_class_name": "DPMSolverMultistepScheduler", **betas}),
    )
    return folder


_GEMMA_2_2B = {
    "_class_name": "Gemma2Model",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 256000,
}


def save_sana(folder: Path) -> Path:
    """Sana_1600M_1024px: 1024 × 1024 pixels, a transformer of 1,604 million weights, which are diffusers' defaults."""
    vae: dict[str, Any] = {"downsample_block_type": "conv", "upsample_block_type": "interpolate"}
    for part in ("encoder", "decoder"):
        vae[f"{part}_block_types"] = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
    vae |= {"encoder_qkv_multiscales": [[]] * 6, "scaling_factor": 0.41407}
    solver = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    _write(
        folder,
        "SanaPipeline",
        transformer=("diffusers", {"_class_name": "SanaTransformer2DModel", "sample_size": 32}),
        vae=("diffusers", {"_class_name": "AutoencoderDC", **vae}),
        text_encoder=("transformers", _GEMMA_2_2B),
        scheduler=("diffusers", {"_class_name": "DPMSolverMultistepScheduler", **solver}),
    )
    return folder


def save_lumina_2(folder: Path) -> Path:
    """Lumina-Image-2.0: 1024 × 1024 pixels, a transformer of 2,610 million weights."""
    transformer = {"_class_name": "Lumina2Transformer2DModel", "sample_size": 128, "cap_feat_dim": 2304}
    _write(
        folder,
        "Lumina2Pipeline",
        transformer=("diffusers", transformer),
        vae=("diffusers", _VAE | _FLOW_VAE),
        text_encoder=("transformers", _GEMMA_2_2B),
        scheduler=("diffusers", {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 6.0}),
    )
    return folder


_QWEN3_4B = {
    "_class_name": "Qwen3ForCausalLM",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
_QWEN_TOKENIZER_OF = ("Qwen3ForCausalLM", "Qwen3Model", "Qwen2_5_VLForConditionalGeneration")


def save_flux_2_klein(folder: Path) -> Path:
    """FLUX.2-klein-base-4B: 1024 × 1024 pixels, a transformer of 3,876 million weights."""
    transformer = {
        "_class_name": "Flux2Transformer2DModel",
        "num_layers": 5,
        "num_single_layers": 20,
        "num_attention_heads": 24,
        "joint_attention_dim": 7680,
        "guidance_embeds": False,
    }
    shift = {"shift": 3.0, "use_dynamic_shifting": True}
    _write(
        folder,
        "Flux2KleinPipeline",
        {"is_distilled": False},
        transformer=("diffusers", transformer),
        vae=("diffusers", {"_class_name": "AutoencoderKLFlux2"}),
        text_encoder=("transformers", _QWEN3_4B),
        scheduler=("diffusers", {"_class_name": "FlowMatchEulerDiscreteScheduler", **shift}),
    )
    return folder


def save_flux_2_dev(folder: Path) -> Path:
    """FLUX.2-dev: 1024 × 1024 pixels, a transformer of 32,223 million weights, which are diffusers' defaults."""
    text = {
        "model_type": "mistral",
        "hidden_size": 5120,
        "intermediate_size": 32768,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 131072,
    }
    vision = {"model_type": "pixtral", "patch_size": 14, "image_size": 1540}
    config = {"text_config": text, "vision_config": vision, "tie_word_embeddings": False}
    shift = {"shift": 3.0, "use_dynamic_shifting": True}
    _write(
        folder,
        "Flux2Pipeline",
        transformer=("diffusers", {"_class_name": "Flux2Transformer2DModel"}),
        vae=("diffusers", {"_class_name": "AutoencoderKLFlux2"}),
        text_encoder=("transformers", {"_class_name": "Mistral3ForConditionalGeneration", **config}),
        scheduler=("diffusers", {"_class_name": "FlowMatchEulerDiscreteScheduler", **shift}),
    )
    return folder


def save_z_image_turbo(folder: Path) -> Path:
    """Z-Image-Turbo: 1024 × 1024 pixels, a transformer of 6,155 million weights, which are diffusers' defaults."""
    _write(
        folder,
        "ZImagePipeline",
        transformer=("diffusers", {"_class_name": "ZImageTransformer2DModel"}),
        vae=("diffusers", _VAE | _FLOW_VAE),
        text_encoder=("transformers", _QWEN3_4B | {"_class_name": "Qwen3Model"}),
        scheduler=("diffusers", {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}),
    )
    return folder


def save_qwen_image(folder: Path) -> Path:
    """Qwen-Image: 1024 × 1024 pixels, a transformer of 20,430 million weights, which are diffusers' defaults."""
    text = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    }
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584}
    config = {"text_config": text, "vision_config": vision, "tie_word_embeddings": False}
    shift = {
        "use_dynamic_shifting": True,
        "max_shift": 0.9,
        "max_image_seq_len": 8192,
        "shift_terminal": 0.02,
    }
    _write(
        folder,
        "QwenImagePipeline",
        transformer=("diffusers", {"_class_name": "QwenImageTransformer2DModel"}),
        vae=("diffusers", {"_class_name": "AutoencoderKLQwenImage"}),
        text_encoder=("transformers", {"_class_name": "Qwen2_5_VLForConditionalGeneration", **config}),
        scheduler=("diffusers", {"_class_name": "FlowMatchEulerDiscreteScheduler", **shift}),
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
            if config["_class_name"] in _QWEN_TOKENIZER_OF:
                qwen_tokenizer().save_pretrained(folder / tokenizer)
                index[tokenizer] = ["transformers", "Qwen2Tokenizer"]
                continue
            if config["_class_name"] == "Mistral3ForConditionalGeneration":
                pixtral_processor().save_pretrained(folder / tokenizer)
                index[tokenizer] = ["transformers", "PixtralProcessor"]
                continue
            if config["_class_name"] == "Gemma2Model":
                gemma_tokenizer().save_pretrained(folder / tokenizer)
                index[tokenizer] = ["transformers", "PreTrainedTokenizerFast"]
                continue
            byte_tokenizer(folder / f"raw-{tokenizer}", length=77).save_pretrained(folder / tokenizer)
            is_t5 = config["_class_name"] == "T5EncoderModel"
            index[tokenizer] = ["transformers", "PreTrainedTokenizerFast" if is_t5 else "CLIPTokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index))
