"""Tiny real pipelines whose text encoder is a language model: random weights, the real diffusers classes.

All have 8×8 latents of 4 channels, 16×16 pixels, and a byte-level tokenizer in Qwen's manner with a chat template.
"""

from pathlib import Path
from typing import Any

import torch

from tests.support.pipelines import FLOW_SHIFT, letter_tokenizer, tiny_t5, tiny_vae

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)

MISTRAL_CHAT = (
    "{% for message in messages %}[{{ message.role }}]"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{% endfor %}"
)


def qwen_tokenizer() -> Any:
    """Return a tokenizer of the 256 bytes without merges, with the special tokens and the chat template of Qwen."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    return Qwen2Tokenizer(
        vocab={"<|endoftext|>": 256} | {symbol: index for index, symbol in enumerate(symbols)},
        merges=[],
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHAT,
        model_max_length=1024,
    )


def qwen3_config(num_hidden_layers: int) -> Any:
    """Return the configuration of a tiny Qwen3 of width 16."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=264,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=1024,
    )


def save_tiny_klein_pipeline(folder: Path, *, seed: int = 0, is_distilled: bool = False) -> Path:
    """Write a random Flux2KleinPipeline: of the base models' kind, or distilled."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(seed)
    vae = _flux_2_vae()
    pipeline = Flux2KleinPipeline(
        transformer=_flux_2_transformer(guidance_embeds=False),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(qwen3_config(28)),
        tokenizer=qwen_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT, use_dynamic_shifting=True),
        is_distilled=is_distilled,
    )
    pipeline.save_pretrained(folder)
    return folder


def _flux_2_vae() -> Any:
    """Return a random VAE of FLUX.2, with statistics in its batch norm."""
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=16,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    return vae


def _flux_2_transformer(*, guidance_embeds: bool) -> Any:
    """Return a random transformer of FLUX.2 that reads three layers of width 16."""
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        axes_dims_rope=(4, 4, 4, 4),
        timestep_guidance_channels=16,
        guidance_embeds=guidance_embeds,
    )


def pixtral_processor() -> Any:
    """Return a processor of images and text in Mistral 3's manner, with a chat template."""
    from transformers import PixtralImageProcessor, PixtralProcessor

    return PixtralProcessor(
        image_processor=PixtralImageProcessor(), tokenizer=gemma_tokenizer(), chat_template=MISTRAL_CHAT
    )


def save_tiny_flux_2_dev_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """Write a random Flux2Pipeline: its text encoder is a Mistral 3, which reads images too, with its processor."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    text = {
        **sizes,
        "model_type": "mistral",
        "vocab_size": 264,
        "num_hidden_layers": 30,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
    }
    vision = {**sizes, "model_type": "pixtral", "num_hidden_layers": 1, "image_size": 16, "patch_size": 4}
    pipeline = Flux2Pipeline(
        transformer=_flux_2_transformer(guidance_embeds=True),
        vae=_flux_2_vae(),
        text_encoder=Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)),
        tokenizer=pixtral_processor(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT, use_dynamic_shifting=True),
    )
    pipeline.save_pretrained(folder)
    return folder


def save_tiny_z_image_pipeline(folder: Path, *, seed: int = 0, shift: float = 6.0) -> Path:
    """Write a random ZImagePipeline with the shift of Z-Image, or with `shift` 3 as Turbo."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Model

    torch.manual_seed(seed)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )
    pipeline = ZImagePipeline(
        transformer=transformer,
        vae=tiny_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=Qwen3Model(qwen3_config(2)),
        tokenizer=qwen_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
    )
    pipeline.save_pretrained(folder)
    return folder


def save_tiny_qwen_image_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """Write a random QwenImagePipeline; its own size is 1024 × 1024 pixels, as no configuration names another."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    text = {
        "vocab_size": 264,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    pipeline = QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.1, 0.2, 0.3, 0.4],
            latents_std=[1.0, 2.0, 1.5, 0.5],
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        ),
        tokenizer=qwen_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
        ),
    )
    pipeline.save_pretrained(folder)
    return folder


def save_tiny_chroma_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """Write a random ChromaPipeline, whose text encoder is a T5 that reads letters."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(seed)
    pipeline = ChromaPipeline(
        transformer=ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(2, 2, 4),
            approximator_num_channels=8,
            approximator_hidden_dim=32,
            approximator_layers=1,
        ),
        vae=tiny_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=tiny_t5(width=16),
        tokenizer=letter_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipeline.save_pretrained(folder)
    return folder


def save_tiny_pixart_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """Write a random PixArtSigmaPipeline with learned variances and the released models' multi-step solver."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    torch.manual_seed(seed)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        norm_num_groups=1,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
        use_additional_conditions=False,
    )
    pipeline = PixArtSigmaPipeline(
        transformer=transformer,
        vae=tiny_vae(scaling_factor=0.13025),
        text_encoder=tiny_t5(width=16),
        tokenizer=letter_tokenizer(),
        scheduler=DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02),
    )
    pipeline.save_pretrained(folder)
    return folder


def gemma_tokenizer() -> Any:
    """Return a tokenizer in Gemma's manner, `<bos>` at the beginning, of single Latin letters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    symbols = ["<pad>", "<bos>", "<unk>", *(chr(code) for code in range(256))]
    tokenizer = Tokenizer(
        models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", unk_token="<unk>"
    )


def tiny_gemma() -> Any:
    """Return a random Gemma 2 of width 16 that reads `gemma_tokenizer`."""
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=259,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=4096,
        )
    )


def save_tiny_sana_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """Write a random SanaPipeline with the released models' multi-step solver."""
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    torch.manual_seed(seed)
    blocks: dict[str, Any] = {}
    for part in ("encoder", "decoder"):
        blocks |= {
            f"{part}_block_types": ("ResBlock", "EfficientViTBlock"),
            f"{part}_block_out_channels": (8, 8),
            f"{part}_layers_per_block": (1, 1),
            f"{part}_qkv_multiscales": ((), (5,)),
        }
    pipeline = SanaPipeline(
        transformer=SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=8,
        ),
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            scaling_factor=0.4,
            **blocks,
        ),
        text_encoder=tiny_gemma(),
        tokenizer=gemma_tokenizer(),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
        ),
    )
    pipeline.save_pretrained(folder)
    return folder


def save_tiny_lumina_2_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """Write a random Lumina2Pipeline, whose class takes a VAE of 1/8 for granted: its own size is 64 × 64 pixels."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        Lumina2Pipeline,
        Lumina2Transformer2DModel,
    )

    torch.manual_seed(seed)
    pipeline = Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(300, 64, 64),
            cap_feat_dim=16,
        ),
        vae=AutoencoderKL(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.06,
            scaling_factor=1.5,
        ),
        text_encoder=tiny_gemma(),
        tokenizer=gemma_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )
    pipeline.save_pretrained(folder)
    return folder
