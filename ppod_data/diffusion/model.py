"""Load a text-to-image pipeline, embed prompts, call its network, decode latents.

What differs between the classes of pipelines is in `families`.

Shapes: P prompts, B rows, C H W latent.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ppod_data.diffusion.condition import Condition, Conditioning
from ppod_data.diffusion.families import FAMILIES, Family
from ppod_data.diffusion.guidance import Network
from ppod_data.diffusion.safety import FOLDERS, SafetyChecker, load_safety_checker
from ppod_data.errors import ConfigError
from ppod_data.files import refuse_pointer_file, sha256_file
from ppod_data.quiet import quiet_pipelines
from ppod_data.scenes import PIPELINE_PATH
from ppod_data.threads import one_thread

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# The files that make a pipeline what it is: weights, configurations, tokenizer. Pickled weights are never loaded.
_PIPELINE_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
_SKELETON_FILES = ["*.json", "*.txt", "*.model"]
_LORA_FILE = "pytorch_lora_weights.safetensors"

# Latents are decoded in slices of at most this many pixels, so that memory is bounded whatever the batch size.
_DECODE_PIXELS = 2 * 512 * 512


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffusionModel:
    """A loaded pipeline and its identity."""

    name: str
    """As the user gave it: `scenes`, a folder, or an id on the Hugging Face Hub."""
    revision: str | None
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
    adapter: str | None = None,
    device: str = "cpu",
    compute_dtype: str = "fp32",
    safety_check: bool = False,
) -> DiffusionModel:
    """Load a pipeline for sampling and training.

    Args:
        name: `scenes` (shipped with the package), a folder in diffusers format, or an id on the Hub.
        revision: of the Hub repository; a commit hash makes it exact.
        adapter: LoRA weights as `save_lora_weights` writes them (a folder or a file). Never fused.
        compute_dtype: fp32, bf16 or fp16, of the network and the text encoder. The VAE decodes in fp32 where its
            configuration asks for that.
        safety_check: load its safety checker as well.

    Raises:
        ConfigError: unknown model, a pipeline class or scheduler that is not supported, no safety checker.
    """
    import diffusers

    folder = resolve_model(name, revision)
    index, family = read_index(name, folder)
    safety = None
    if safety_check:
        safety = load_safety_checker(name, folder, fingerprint_components(folder, FOLDERS), device)
    try:
        with quiet_pipelines():
            pipeline = getattr(diffusers, index["_class_name"]).from_pretrained(
                folder,
                dtype={"default": DTYPES[compute_dtype], "vae": vae_dtype(folder, compute_dtype)},
                use_safetensors=True,
                **absent_parts(index, family) | dict(family.load_options),
            )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name} is not a complete pipeline in safetensors format: {error}") from error
    fingerprint = fingerprint_folder(folder)
    if adapter is not None:
        weights = adapter_file(adapter)
        try:
            with quiet_pipelines():
                pipeline.load_lora_weights(weights.parent, weight_name=weights.name)
            keep_lora_exact(getattr(pipeline, family.denoiser), weights)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0][:200]
            raise ConfigError(f"adapter {adapter} does not fit {name}: {reason}") from error
        fingerprint = adapter_fingerprint(fingerprint, weights)
    for part in parts_of(pipeline, family):
        part.to(device).eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return DiffusionModel(
        name=name,
        revision=revision,
        adapter=adapter,
        fingerprint=fingerprint,
        pipeline=pipeline,
        family=family,
        scheduler_config=family.scheduler_config(pipeline),
        latent_shape=family.latent_shape(pipeline),
        device=device,
        compute_dtype=compute_dtype,
        safety=safety,
    )


def read_index(name: str, folder: Path) -> tuple[dict[str, Any], Family]:
    """The model_index.json of a pipeline folder, and the family of its class. Raises ConfigError for another class."""
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text())
    family = FAMILIES.get(index["_class_name"])
    if family is None:
        raise ConfigError(f"{name} is a {index['_class_name']}: supported are {', '.join(FAMILIES)}")
    return index, family


def parts_of(pipeline: Any, family: Family) -> list[torch.nn.Module]:
    """The networks of a pipeline that are used, as `DiffusionModel.parts`."""
    names = (family.denoiser, "vae", *family.text_encoders)
    return [part for part in (getattr(pipeline, name) for name in names) if part is not None]


def absent_parts(index: dict[str, Any], family: Family) -> dict[str, None]:
    """name -> None for the text encoders that a pipeline was saved without, and their tokenizers: `from_pretrained`
    wants to be told (Stable Diffusion 3 without T5)."""
    names = [
        name
        for encoder in family.text_encoders
        for name in (encoder, encoder.replace("text_encoder", "tokenizer"))
    ]
    return {name: None for name in names if index.get(name) == [None, None]}


def vae_dtype(folder: Path, compute_dtype: str) -> torch.dtype:
    """What the VAE of a pipeline folder decodes in: fp32 where its configuration asks for that."""
    upcast = json.loads((folder / "vae" / "config.json").read_text()).get("force_upcast", True)
    return torch.float32 if upcast else DTYPES[compute_dtype]


def network(model: DiffusionModel) -> Network:
    """The denoising network as a function of (latents, timesteps, condition).

    Timesteps are passed one a row in sampling and training alike, so that both take the same code path.
    """
    return network_of(model, model.denoiser)


def network_of(model: DiffusionModel, denoiser: Any) -> Network:
    """A denoiser of the model's kind as a function, in the model's compute dtype."""
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
    if family.embed_negative is None and negative_prompt:
        raise ConfigError(f"{model.name} reads no negative prompt: leave it out")
    negative = None
    if family.embed_negative is not None and guidance_scale > 1:
        with quiet_pipelines(), one_thread(model.device):
            negative = family.embed_negative(pipeline, negative_prompt)

    @torch.no_grad()
    def embed(number: int) -> Condition:
        with quiet_pipelines(), one_thread(model.device):
            return {**family.embed(pipeline, prompts[number]), **guidance}

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
    """The VAE's output for x_0 latents [B, C, H, W], a part of the batch at a time: [b, 3, height, width], −1 to 1."""
    vae = model.pipeline.vae
    latents = latents.to(model.device, vae.dtype)
    mean, std = (
        None if values is None else torch.tensor(values).view(1, -1, 1, 1).to(latents)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    if mean is None or std is None:
        scaled = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    else:
        scaled = latents * std / vae.config.scaling_factor + mean
    for part in scaled.split(max(1, _DECODE_PIXELS // (model.height * model.width))):
        yield vae.decode(part, return_dict=False)[0]


def fingerprint_folder(folder: Path) -> str:
    """sha256 over (relative name, sha256) of every weight file and configuration of a pipeline folder."""
    index = json.loads((folder / "model_index.json").read_text())
    components = sorted(name for name in index if not name.startswith("_") and (folder / name).is_dir())
    return fingerprint_components(folder, [name for name in components if name not in FOLDERS])


def fingerprint_components(folder: Path, names: Sequence[str]) -> str:
    """sha256 over (relative name, sha256) of every weight file and configuration of some components."""
    digest = hashlib.sha256()
    paths = [path for name in names for pattern in _PIPELINE_FILES for path in (folder / name).glob(pattern)]
    for path in sorted(paths):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def keep_lora_exact(denoiser: Any, file: Path) -> None:
    """Give loaded LoRA weights the file's values in fp32 again: diffusers rounds them to the pipeline's precision.

    Training keeps LoRA in fp32 over half-precision weights; sampling with rounded ones would be another policy.

    Raises:
        ValueError: the file has weights that were not loaded, which diffusers may pass over in silence.
    """
    from safetensors.torch import load_file

    exact = {lora_name(key): value for key, value in load_file(file).items()}
    left = {
        name
        for name in exact
        if name.endswith((".lora_A", ".lora_B")) and not name.startswith("text_encoder")
    }
    for name, parameter in denoiser.named_parameters():
        place = re.sub(r"(lora_[AB])\.\w+\.weight$", r"\1", name)
        value = exact.get(place)
        left.discard(place)
        if value is not None and value.shape == parameter.shape:
            parameter.data = value.to(parameter.device, torch.float32)
    if left:
        raise ValueError(f"diffusers did not load {min(left)}")


def lora_name(key: str) -> str:
    """From a key of a LoRA file to the place in the denoiser: down_blocks.….to_q.lora_A."""
    inner = re.sub(r"^(unet|transformer)\.", "", key).removesuffix(".weight")
    return inner.replace(".lora.down", ".lora_A").replace(".lora.up", ".lora_B")


def adapter_fingerprint(fingerprint: str, weights: Path) -> str:
    """The fingerprint of a pipeline (its own: `fingerprint`) with the LoRA weights of a file on top."""
    return hashlib.sha256(f"{fingerprint}+{sha256_file(weights)}".encode()).hexdigest()


def resolve_model(name: str, revision: str | None, *, weights: bool = True) -> Path:
    """The local folder of a pipeline, downloaded from the Hub when it is not one already.

    weights: False for configurations and tokenizers alone.
    """
    if name == "scenes":
        return PIPELINE_PATH
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ConfigError(f"{name} is no pipeline: it has no model_index.json")
        return folder
    unknown = (
        f"unknown model {name}: give scenes, a pipeline folder, or an id on the Hugging Face Hub (owner/name)"
    )
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ConfigError(unknown)
    from diffusers import DiffusionPipeline
    from huggingface_hub import snapshot_download

    try:
        with quiet_pipelines():
            if not weights:
                return Path(snapshot_download(name, revision=revision, allow_patterns=_SKELETON_FILES))
            return Path(DiffusionPipeline.download(name, revision=revision, use_safetensors=True))
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(f"{unknown}; asked the Hub, which gave {type(error).__name__}: {reason}") from error


def has_weights(name: str) -> bool:
    """Whether `name` is a pipeline folder with its weights here; the Hub is not asked."""
    return name == "scenes" or any(
        any(Path(name).glob(f"{family.denoiser}/*.safetensors")) for family in FAMILIES.values()
    )


def adapter_file(adapter: str) -> Path:
    """The weights file of an adapter, a folder or a file. Raises ConfigError where there is none."""
    path = Path(adapter)
    file = path / _LORA_FILE if path.is_dir() else path
    if not file.is_file() or file.suffix != ".safetensors":
        raise ConfigError(f"adapter {adapter} holds no LoRA weights: {_LORA_FILE} is what is looked for")
    refuse_pointer_file(file)
    return file
