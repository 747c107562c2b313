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


def save_tiny_pipeline(
    folder: Path, *, seed: int = 0, safety: bool = False, **scheduler_options: object
) -> Path:
    """Write a random StableDiffusionPipeline (60k UNet weights): 1.x, or 2.x by its scheduler's options.

    With `safety` it has a safety checker and its feature extractor; the other weights are the same.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    pipeline = StableDiffusionPipeline(
        unet=_unet(cross_attention_dim=16, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D")),
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**_TEXT, num_hidden_layers=1)),
        tokenizer=byte_tokenizer(folder.parent / f"{folder.name}-tokenizer"),
        scheduler=DDIMScheduler(**SCHEDULER | scheduler_options),
        safety_checker=_safety_checker() if safety else None,
        feature_extractor=_feature_extractor() if safety else None,
        requires_safety_checker=safety,
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
        vae=tiny_vae(),
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


def _safety_checker() -> Any:
    """A random StableDiffusionSafetyChecker, whose thresholds flag some images of random pipelines and others not."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    vision = {
        **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"image_size": 16, "patch_size": 4},
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    for embeds in (checker.concept_embeds, checker.special_care_embeds):
        embeds.data = torch.randn(embeds.shape)
    checker.concept_embeds_weights.data[:] = SAFETY_THRESHOLD
    checker.special_care_embeds_weights.data[:] = 1.0
    return checker


def _feature_extractor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


SAFETY_THRESHOLD = 0.6
"""The cosine with a concept above which the tiny safety checker flags an image."""

FLOW_SHIFT = 3.0


def save_tiny_sd35_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """Write a random StableDiffusion3Pipeline of 3.5's kind, with T5: a second attention, and normalised queries."""
    return save_tiny_sd3_pipeline(folder, seed=seed, t5=True, dual_attention_layers=(0,), qk_norm="rms_norm")


def save_tiny_sd3_pipeline(folder: Path, *, seed: int = 0, t5: bool = False, **options: Any) -> Path:
    """Write a random StableDiffusion3Pipeline, with T5 or without, with the shift of the released models."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    config = CLIPTextConfig(**_TEXT, num_hidden_layers=2, projection_dim=12)
    pipeline = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=24,
            pos_embed_max_size=8,
            **options,
        ),
        vae=tiny_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=CLIPTextModelWithProjection(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        text_encoder_3=tiny_t5(width=32) if t5 else None,
        tokenizer=byte_tokenizer(folder.parent / f"{folder.name}-tokenizer"),
        tokenizer_2=byte_tokenizer(folder.parent / f"{folder.name}-tokenizer-2"),
        tokenizer_3=letter_tokenizer() if t5 else None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT),
    )
    pipeline.save_pretrained(folder)
    return folder


def save_tiny_flux_pipeline(folder: Path, *, seed: int = 0, guidance_embeds: bool = True) -> Path:
    """Write a random FluxPipeline: of FLUX.1-dev's kind, or with `guidance_embeds` False of schnell's."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    pipeline = FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(2, 2, 4),
            guidance_embeds=guidance_embeds,
        ),
        vae=tiny_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=CLIPTextModel(CLIPTextConfig(**_TEXT, num_hidden_layers=1)),
        text_encoder_2=tiny_t5(width=16),
        tokenizer=byte_tokenizer(folder.parent / f"{folder.name}-tokenizer"),
        tokenizer_2=letter_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT, use_dynamic_shifting=guidance_embeds),
    )
    pipeline.save_pretrained(folder)
    return folder


def tiny_t5(width: int) -> Any:
    """Return a random T5 encoder of `letter_tokenizer`."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=259, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config)


def letter_tokenizer() -> Any:
    """A tokenizer in T5's manner, `</s>` at the end, of single Latin letters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    symbols = ["<pad>", "</s>", "<unk>", *(chr(code) for code in range(256))]
    tokenizer = Tokenizer(
        models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=16,
    )


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


def tiny_vae(**options: Any) -> Any:
    """Return a random AutoencoderKL of 8 × 8 latents for 16 × 16 pixels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        **options,
    )
