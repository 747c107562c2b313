"""Settings of sampling, declared once for Python, the command line and configuration files."""

from dataclasses import dataclass
from typing import Literal

from ppod_data.support.options import option

_SAMPLE, _CHAIN, _STORAGE = "What to sample", "The chain", "Storage"


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How the images of a data set are sampled; None takes the model's own default.

    >>> from ppod_data import SamplingSettings, build_spec, load_model
    >>> settings = SamplingSettings(num_images_per_prompt=8, num_inference_steps=4)
    >>> build_spec(load_model("scenes"), ["a dog on the moon"], settings).num_samples
    8
    """

    height: int | None = option(
        None,
        "Of the images, in pixels.",
        panel=_SAMPLE,
        metavar="H",
        shown_default="the model's own",
        min=1,
    )
    width: int | None = option(
        None,
        "Of the images, in pixels.",
        panel=_SAMPLE,
        metavar="W",
        shown_default="the model's own",
        min=1,
    )
    negative_prompt: str = option(
        "", "What guidance steers away from; no effect at guidance scale 1.", panel=_SAMPLE, metavar="TEXT"
    )
    num_images_per_prompt: int = option(
        64, "K: images sampled for each prompt.", panel=_SAMPLE, metavar="K", min=1
    )
    seed: int = option(0, "Seed of all noise.", panel=_SAMPLE, metavar="SEED", min=0)
    num_inference_steps: int = option(20, "T: denoising steps.", panel=_CHAIN, metavar="T", min=1, max=1000)
    guidance_scale: float | None = option(
        None,
        "Classifier-free guidance, 1 is none; for FLUX.1-dev and FLUX.2-dev the scale that they are distilled to obey.",
        panel=_CHAIN,
        metavar="W",
        shown_default="the model's own: 1 for scenes and distilled models, 3.5 for FLUX.1-dev, 4 for FLUX.2, Lumina 2 "
        "and Qwen-Image, 4.5 for Stable Diffusion 3, PixArt-Σ and Sana, otherwise 5",
        min=1.0,
    )
    guidance_mode: Literal["batched", "sequential"] = option(
        "batched",
        "Both halves of guidance in one network call, or in two (half the memory).",
        panel=_CHAIN,
    )
    ddim_eta: float | None = option(
        None,
        "Noise of a step, above 0: DDIM's eta, or the noise level of a flow-matching model.",
        panel=_CHAIN,
        metavar="ETA",
        shown_default="1.0, for flow matching 0.7",
        above=0.0,
        max=1.0,
        reason=": a chain without noise has no log-probabilities",
    )
    noisy_steps: str | None = option(
        None,
        "Steps that draw noise, from step A to B - 1. The others are the sampler's own and are not trained on.",
        panel=_CHAIN,
        metavar="A:B",
        shown_default="all, but only as many as leave no noise in the image",
    )
    initial_noise: Literal["per-image", "per-prompt"] = option(
        "per-image", "Another x_T for every image, or one for all of a prompt.", panel=_CHAIN
    )
    latent_dtype: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", "What latents are rounded to in the chain, and stored in.", panel=_CHAIN
    )
    batch_size: int | None = option(
        None,
        "Images sampled together; a part of the data set, since the last bits depend on it.",
        panel=_CHAIN,
        metavar="N",
        shown_default="64, or 8 above 64 pixels",
        min=1,
    )
    images_per_shard: int | None = option(
        None,
        "Images in one shard, the unit of resuming and of sharing work.",
        panel=_STORAGE,
        metavar="N",
        shown_default="about 256 MiB, at most 512",
        min=1,
    )
    store_steps: str = option(
        "all", "Steps whose latents are stored: all, last:N, every:N.", panel=_STORAGE, metavar="STEPS"
    )
