"""The interface of a family of pipelines: how it is loaded, conditioned and called.

Each file of this package defines its families as values of `Family`, and `by_name` maps class names to them.

Shapes: B rows, C H W latent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families import vae
from ppod_data.diffusion.families.own_call import Options, classifier_free
from ppod_data.diffusion.families.served import Check
from ppod_data.diffusion.guidance import Combine, extrapolate

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections of an attention, as LoRA targets."""
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""The projections of an attention over image and text, as LoRA targets."""

CLIP_TOKENIZER = ("CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
T5_TOKENIZER = ("T5Tokenizer", "T5TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
GEMMA_TOKENIZER = ("GemmaTokenizer", "GemmaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
QWEN_TOKENIZER = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a class of pipelines is loaded, conditioned and called."""

    components: Mapping[str, tuple[str, ...]]
    """The parts that are loaded, by name -> the classes that are served; () is any of diffusers' schedulers."""
    check: Check
    """(name, configurations): refuse a network that is called otherwise than `predict` calls it, or is of another."""
    load_options: Mapping[str, Any]
    """For the pipeline's constructor: parts that are left out, and switches."""
    denoiser: str
    """Name of the component that denoises; its LoRA weights have this prefix."""
    text_encoders: tuple[str, ...]
    """Names of the components that embed prompts; a pipeline may be saved without some."""
    embed: Callable[[Any, str], Condition]
    """(pipeline, prompt) -> its condition, one row."""
    embed_negative: Callable[[Any, str], Condition] | None
    """The same for what classifier-free guidance steers away from; "" is none. None: there is no such guidance."""
    embed_guidance: Callable[[Any, float], Condition] | None
    """(pipeline, guidance scale) -> the scale as a condition, one row, of a network that was distilled to obey it."""
    embed_size: Callable[[Any, int, int], Condition] | None
    """(pipeline, height, width) -> the image's size as a condition, one row, of a network that reads it."""
    predict: Callable[[Any, torch.Tensor, torch.Tensor, Condition], torch.Tensor]
    """(denoiser, latents, timesteps, condition) -> its prediction."""
    latent_shape: Callable[[Any], tuple[int, int, int]]
    """pipeline -> (C, H, W) of an image of its own size."""
    patches: Callable[[Any], tuple[int, int | None]]
    """pipeline -> (latents on a side of a patch, the most patches on a side; None: no bound)."""
    scheduler_config: Callable[[Any, tuple[int, int, int]], dict[str, Any]]
    """(pipeline, latent shape) -> what `schedule.chain_config` makes a spec's scheduler of."""
    guidance_scale: Callable[[Any], float]
    """pipeline -> the default."""
    noise_level: float
    """The default of `ddim_eta`."""
    lora_targets: tuple[str, ...]
    """The denoiser's attention projections."""
    guided: Combine = extrapolate
    """(unconditional, conditional, scale) -> the guided prediction, where there is an unconditional one."""
    encode: Callable[[Any, torch.Tensor], torch.Tensor] = vae.encode
    """(VAE, pixels [B, 3, height, width] in −1 to 1) -> x_0 [B, C, H, W]."""
    decode: Callable[[Any, torch.Tensor], torch.Tensor] = vae.decode
    """(VAE, x_0 [B, C, H, W]) -> pixels."""
    prompt_tokens: Callable[[Any], int] | None = None
    """pipeline -> the most tokens of a prompt that are read, its template aside; None: the tokenizer's own limit."""
    call_options: Callable[[float, str], Options] = classifier_free
    """(guidance scale, negative prompt) -> options with which the pipeline's own call guides as here."""
