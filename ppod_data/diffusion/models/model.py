"""Load a text-to-image pipeline, embed prompts, call its network, decode latents.

What differs between the classes of pipelines is in `families`.

Shapes: P prompts, B rows, C H W latent.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ppod_data.diffusion.adapters.file import adapter_file, adapter_fingerprint
from ppod_data.diffusion.adapters.lora import add_lora, read_lora, set_lora
from ppod_data.diffusion.condition import Condition, Conditioning
from ppod_data.diffusion.families.family import Family
from ppod_data.diffusion.guidance import Network
from ppod_data.diffusion.models.attention import check_attention_backend
from ppod_data.diffusion.models.components import load_component
from ppod_data.diffusion.models.model_folder import (
    ModelFolder,
    fingerprint,
    open_folder,
    read_json,
    reason,
    resolve_model,
)
from ppod_data.diffusion.models.safety import SafetyChecker, load_safety_checker
from ppod_data.errors import ConfigError
from ppod_data.support.precision import set_gpu_numerics
from ppod_data.support.runtime import is_out_of_memory, one_thread, quiet_pipelines

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Latents are decoded in slices of at most this many pixels, so that memory is bounded whatever the batch size.
_DECODE_PIXELS = 2 * 512 * 512


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffusionModel:
    """A loaded pipeline and its identity."""

    name: str
    """As the user gave it: `scenes`, a folder, or an id on the Hugging Face Hub."""
    revision: str | None
    variant: str | None
    """Which of the weight files were loaded, such as fp16; None: those without one in their names."""
    adapter: str | None
    """A folder or file of LoRA weights on top of the pipeline."""
    fingerprint: str
    """sha256 over the weight files and configurations, the adapter's included: 64 hex digits."""
    pipeline: Any
    """diffusers' pipeline, in eval mode on `device`."""
    family: Family
    """How its class is conditioned and called."""
    scheduler_config: dict[str, Any]
    """What `schedule.chain_config` makes a spec's scheduler of: a complete DDIM or flow-matching configuration."""
    latent_shape: tuple[int, int, int]
    """(C, H, W)."""
    device: str
    compute_dtype: str
    safety: SafetyChecker | None = None
    """The pipeline's safety checker, where it was asked for."""

    @property
    def denoiser(self) -> Any:
        """The network that denoises: a UNet or a transformer."""
        return getattr(self.pipeline, self.family.denoiser)

    @property
    def parts(self) -> list[torch.nn.Module]:
        """Every network of the pipeline that is used: denoiser, VAE, and those text encoders that it has."""
        return parts_of(self.pipeline, self.family)

    @property
    def height(self) -> int:
        """Pixels."""
        return self.latent_shape[1] * int(self.pipeline.vae_scale_factor)

    @property
    def width(self) -> int:
        """Pixels."""
        return self.latent_shape[2] * int(self.pipeline.vae_scale_factor)


def load_model(
    name: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    adapter: str | None = None,
    device: str = "cpu",
    compute_dtype: str = "fp32",
    safety_check: bool = False,
) -> DiffusionModel:
    """Load a pipeline for sampling and training.

    >>> from ppod_data import load_model
    >>> load_model("scenes").latent_shape
    (4, 8, 8)

    Args:
        name: `scenes` (shipped with the package), a folder in diffusers format, or an id on the Hub.
        revision: of the Hub repository; a commit hash makes it exact.
        variant: load the weights with this word in their names (`fp16`), where a part has them.
        adapter: LoRA weights, a folder or a file: as diffusers, peft or kohya's tools write them. Never fused.
        compute_dtype: fp32, bf16 or fp16, of the network and the text encoder. The VAE decodes in fp32 where its
            configuration asks for that. fp32 is never TF32.
        safety_check: load its safety checker as well.

    Raises:
        ConfigError: unknown model, a pipeline, network or scheduler that is not supported, an adapter that is not
            taken whole, no safety checker, attention kernels that cannot be used here.
    """
    set_gpu_numerics()
    check_attention_backend()
    folder = open_folder(name, resolve_model(name, revision, variant=variant), variant)
    family = folder.family
    safety = load_safety_checker(folder, device) if safety_check else None
    dtype = DTYPES[compute_dtype]
    dtypes = {"vae": vae_dtype(name, folder.path, compute_dtype)}
    with quiet_pipelines():
        loaded = {part: load_component(folder, part, dtypes.get(part, dtype)) for part in folder.components}
    pipeline = build_pipeline(folder, loaded)
    identity = fingerprint(folder, folder.components)
    if adapter is not None:
        identity = add_adapter(pipeline, family, name, adapter, identity)
    for part in parts_of(pipeline, family):
        part.to(device).eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    latent_shape = family.latent_shape(pipeline)
    return DiffusionModel(
        name=name,
        revision=revision,
        variant=variant,
        adapter=adapter,
        fingerprint=identity,
        pipeline=pipeline,
        family=family,
        scheduler_config=family.scheduler_config(pipeline, latent_shape),
        latent_shape=latent_shape,
        device=device,
        compute_dtype=compute_dtype,
        safety=safety,
    )


def resized(model: DiffusionModel, height: int | None, width: int | None) -> DiffusionModel:
    """Return the model for images of another size in pixels; None: as the model has it.

    Raises:
        ConfigError: a size that the VAE and the network's patches do not divide, or beyond the network's positions.
    """
    wanted = (height or model.height, width or model.width)
    if wanted == (model.height, model.width):
        return model
    scale = int(model.pipeline.vae_scale_factor)
    side, most = model.family.patches(model.pipeline)
    for name, pixels in zip(("height", "width"), wanted, strict=True):
        unit = scale * side
        if pixels < unit or pixels % unit:
            near = max(1, round(pixels / unit)) * unit
            raise ConfigError(
                f"{name} is {pixels}: {model.name} makes multiples of {unit} pixels: give {near}"
            )
        if most is not None and pixels > most * unit:
            raise ConfigError(f"{name} is {pixels}: {model.name} makes at most {most * unit} pixels a side")
    shape = (model.latent_shape[0], wanted[0] // scale, wanted[1] // scale)
    config = model.family.scheduler_config(model.pipeline, shape)
    return replace(model, latent_shape=shape, scheduler_config=config)


def build_pipeline(folder: ModelFolder, loaded: Mapping[str, Any]) -> Any:
    """Build diffusers' pipeline of its loaded parts. Raises ConfigError if its class does not take them."""
    import diffusers

    kind = getattr(diffusers, folder.index["_class_name"])
    try:
        with quiet_pipelines():
            return kind(**{**folder.options(), **loaded})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{folder.name} is not a pipeline that diffusers takes: {reason(error)}") from error


def add_adapter(pipeline: Any, family: Family, name: str, adapter: str, identity: str) -> str:
    """Put an adapter into the pipeline `name` of the fingerprint `identity`; returns that of both.

    Raises:
        ConfigError: an adapter that is not there, or is not taken whole, and why.
    """
    file = adapter_file(adapter)
    try:
        for component, layers in read_lora(file, pipeline, family).items():
            network = getattr(pipeline, component)
            add_lora(network, layers)
            set_lora(network, layers)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(f"adapter {adapter} does not fit {name}: {reason(error)}") from error
    return adapter_fingerprint(identity, file)


def parts_of(pipeline: Any, family: Family) -> list[torch.nn.Module]:
    """Return the networks of a pipeline that are used (`DiffusionModel.parts`)."""
    names = (family.denoiser, "vae", *family.text_encoders)
    return [part for part in (getattr(pipeline, name) for name in names) if part is not None]


def vae_dtype(name: str, folder: Path, compute_dtype: str) -> torch.dtype:
    """Return the precision of a VAE's decoding: fp32 if its configuration asks for it."""
    upcast = read_json(name, folder / "vae" / "config.json").get("force_upcast", True)
    return torch.float32 if upcast else DTYPES[compute_dtype]


def network(model: DiffusionModel) -> Network:
    """Return the denoising network as a function of (latents, timesteps, condition).

    Timesteps are passed one a row in sampling and training alike, so that both take the same code path.
    """
    return network_of(model, model.denoiser)


def network_of(model: DiffusionModel, denoiser: Any) -> Network:
    """Return a denoiser of the model's kind as a function, in the model's compute dtype."""
    dtype = DTYPES[model.compute_dtype]

    def call(latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        return model.family.predict(denoiser, latents.to(dtype), timesteps, condition)

    return call


@torch.no_grad()
def embed_prompts(
    model: DiffusionModel, prompts: Sequence[str], negative_prompt: str, guidance_scale: float
) -> Conditioning:
    """Return the prompts' conditions, each embedded alone when it is first used: work for all would not be bounded.

    Raises:
        ConfigError: a guidance scale or a negative prompt that the model would not read.
    """
    pipeline, family = model.pipeline, model.family
    guidance: Condition = {}
    if family.embed_guidance is not None:
        guidance = family.embed_guidance(pipeline, guidance_scale)
    size: Condition = {}
    if family.embed_size is not None:
        size = family.embed_size(pipeline, model.height, model.width)
    if family.embed_negative is None and negative_prompt:
        raise ConfigError(f"{model.name} reads no negative prompt: leave it out")
    negative = None
    if family.embed_negative is not None and guidance_scale > 1:
        with quiet_pipelines(), one_thread(model.device):
            negative = {**family.embed_negative(pipeline, negative_prompt), **size}

    @torch.no_grad()
    def embed(number: int) -> Condition:
        with quiet_pipelines(), one_thread(model.device):
            return {**family.embed(pipeline, prompts[number]), **guidance, **size}

    return Conditioning(embed=embed, negative=negative, device=model.device)


def calls_per_prediction(model: DiffusionModel, guidance_scale: float) -> int:
    """Network evaluations of one latent for one guided prediction: 2 under classifier-free guidance, else 1."""
    return 2 if model.family.embed_negative is not None and guidance_scale > 1 else 1


def decode_images(model: DiffusionModel, latents: torch.Tensor) -> list[Image.Image]:
    """Decode x_0 latents [B, C, H, W] into RGB images by the pipeline's VAE, with its scaling and shift."""
    images: list[Image.Image] = []
    for pixels in decode_pixels(model, latents):
        images += model.pipeline.image_processor.postprocess(pixels, output_type="pil")
    return images


@torch.no_grad()
def decode_pixels(model: DiffusionModel, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the VAE's output for x_0 latents [B, C, H, W] in parts of the batch: [b, 3, height, width], −1 to 1."""
    vae = model.pipeline.vae
    pixels = math.prod(latents.shape[2:]) * int(model.pipeline.vae_scale_factor) ** 2
    for part in torch.split(latents.to(model.device, vae.dtype), max(1, _DECODE_PIXELS // pixels)):
        yield model.family.decode(vae, part)
