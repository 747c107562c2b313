"""The folder of a pipeline: where it is, which of its files are loaded, and what is refused before they are.

Components are loaded one by one, by the classes that a family knows: no code of a folder is run, and no pickle read.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppod_data.diffusion.families.by_name import FAMILIES
from ppod_data.diffusion.families.family import Family
from ppod_data.diffusion.families.served import check_scheduler
from ppod_data.errors import ConfigError
from ppod_data.scenes import PIPELINE_PATH
from ppod_data.storage.files import refuse_pointer_file, sha256_file
from ppod_data.support.runtime import quiet_pipelines

SAFETY = ("safety_checker", "feature_extractor")
"""Of a pipeline: the network, and how images are made ready for it. They are no part of the policy."""

_SKELETON_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
_MAX_JSON = 64 * 2**20
_NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3", SAFETY[0])
_DIFFUSERS_NAME, _TRANSFORMERS_NAME = "diffusion_pytorch_model", "model"
_SINGLE_FILE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
_LONE_TRANSFORMERS = {
    "Flux2KleinPipeline": "Flux2Transformer2DModel",
    "Flux2Pipeline": "Flux2Transformer2DModel",
    "QwenImagePipeline": "QwenImageTransformer2DModel",
}
"""Pipelines that diffusers does not make of a single file -> the class that it makes of one."""
_VARIANT = re.compile(r"[A-Za-z0-9][\w-]{0,30}")
_ABSENT = [None, None]


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A pipeline folder whose index was read and whose parts are served."""

    name: str
    """As the user gave it: what errors call it."""
    path: Path
    variant: str | None
    index: Mapping[str, Any]
    """Its model_index.json."""
    family: Family

    @property
    def components(self) -> list[str]:
        """The parts that are loaded, by name; a text encoder that the pipeline was saved without is not."""
        return sorted(part for part in self.family.components if self.index.get(part) not in (None, _ABSENT))

    def class_name(self, component: str) -> str:
        """Return the class of a part."""
        return str(self.index[component][1])

    def options(self) -> dict[str, Any]:
        """Return the arguments of the pipeline's constructor beside its parts: switches, and None for absent parts."""
        switches = {
            key: value for key, value in self.index.items() if key[0] != "_" and not isinstance(value, list)
        }
        absent = [part for part in self.family.components if part not in self.components]
        return switches | dict.fromkeys(absent) | dict(self.family.load_options)

    def variant_of(self, component: str) -> str | None:
        """Return the variant if this part has it, as diffusers does; other parts keep their default weights."""
        if self.variant is None or component not in _NETWORKS:
            return None
        names = [f"{stem}.{self.variant}.safetensors" for stem in (_DIFFUSERS_NAME, _TRANSFORMERS_NAME)]
        names += [_index_name(stem, self.variant) for stem in (_DIFFUSERS_NAME, _TRANSFORMERS_NAME)]
        return self.variant if any((self.path / component / name).is_file() for name in names) else None


def open_folder(name: str, path: Path, variant: str | None = None, *, weights: bool = True) -> ModelFolder:
    """Read the index and configurations of a pipeline folder, and check that its parts are served and there.

    Args:
        name: what errors call it.
        weights: False where only configurations are needed.

    Raises:
        ConfigError: a pipeline, part or configuration that is not supported, or weights that are not there or pickled.
        DamagedError: a Git LFS pointer in place of a file.
    """
    index = read_json(name, path / "model_index.json")
    class_name = index.get("_class_name")
    family = FAMILIES.get(class_name) if isinstance(class_name, str) else None
    if family is None:
        raise ConfigError(f"{name} is a {class_name}: supported are {', '.join(FAMILIES)}")
    if variant is not None and not _VARIANT.fullmatch(variant):
        raise ConfigError(f"--variant {variant}: give the word in the names of its files, such as fp16")
    folder = ModelFolder(name=name, path=path, variant=variant, index=index, family=family)
    _check_parts(folder)
    configs = {
        part: read_json(name, path / part / "config.json") for part in folder.components if part in _NETWORKS
    }
    for part, config in configs.items():
        _check_config(folder, part, config)
    family.check(name, configs)
    check_scheduler(name, read_json(name, path / "scheduler" / "scheduler_config.json"))
    if weights:
        for part in configs:
            weight_files(folder, part)
        if variant is not None and not any(folder.variant_of(part) for part in configs):
            raise ConfigError(f"{name} has no weights of the variant {variant}: leave out --variant")
    return folder


def read_json(name: str, path: Path) -> dict[str, Any]:
    """Read the JSON object of a configuration file of the pipeline `name`. Raises ConfigError for other content."""
    shown = f"{path.parent.name}/{path.name}" if path.name != "model_index.json" else path.name
    if not path.is_file() or path.stat().st_size > _MAX_JSON:
        raise ConfigError(f"{name} is not a complete pipeline: it has no {shown}")
    refuse_pointer_file(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: {shown} is no JSON: get the folder again") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: {shown} holds no JSON object: get the folder again")
    return values


def weight_files(folder: ModelFolder, component: str) -> list[Path]:
    """Return the files from which a network is loaded: its weights, and the index of several.

    Raises:
        ConfigError: they are not there, and what is there instead.
    """
    place, variant = folder.path / component, folder.variant_of(component)
    of_diffusers = component in (folder.family.denoiser, "vae")
    stem = _DIFFUSERS_NAME if of_diffusers else _TRANSFORMERS_NAME
    single = place / (f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors")
    index = place / _index_name(stem, variant)
    sharded = index.is_file() and (
        of_diffusers or not single.is_file()
    )  # each library looks for its own first
    files = [index, *_shards(folder.name, index)] if sharded else [single]
    for file in files:
        if not file.is_file():
            raise ConfigError(_missing(folder.name, place, file))
        refuse_pointer_file(file)
    return files


def loaded_files(folder: ModelFolder, component: str) -> list[Path]:
    """Every file of a component that decides what is loaded; hidden files, such as ._NAME of macOS, do not."""
    place = folder.path / component
    if component in _NETWORKS:
        return [place / "config.json", *weight_files(folder, component)]
    visible = (path for pattern in _SKELETON_FILES for path in place.glob(pattern) if path.name[0] != ".")
    return [path for path in visible if path.is_file()]


def fingerprint(folder: ModelFolder, components: Iterable[str]) -> str:
    """Return the sha256 over (relative name, sha256) of every loaded file of some components: 64 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(path for name in components for path in loaded_files(folder, name)):
        digest.update(f"{path.relative_to(folder.path).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def has_weights(name: str) -> bool:
    """Whether `name` is a pipeline folder with its weights here; the Hub is not asked."""
    return name == "scenes" or any(
        any(Path(name).glob(f"{family.denoiser}/*.safetensors")) for family in FAMILIES.values()
    )


def resolve_model(
    name: str, revision: str | None, *, variant: str | None = None, weights: bool = True
) -> Path:
    """Return the local folder of a pipeline, downloaded from the Hub if it is not local.

    weights: False for configurations and tokenizers alone.

    Raises:
        ConfigError: no pipeline, with what to do instead.
    """
    if name == "scenes":
        return PIPELINE_PATH
    path = Path(name)
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise ConfigError(f"{name} is no pipeline: it has no model_index.json{_nearby(path)}")
        return path
    if path.suffix in _SINGLE_FILE and (path.exists() or name.startswith((".", "/")) or "/" not in name):
        raise ConfigError(_single_file(path))
    unknown = (
        f"unknown model {name}: give scenes, a pipeline folder, or an id on the Hugging Face Hub (owner/name)"
    )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise ConfigError(unknown)
    from diffusers import DiffusionPipeline
    from huggingface_hub import snapshot_download

    try:
        with quiet_pipelines():
            if not weights:
                return Path(snapshot_download(name, revision=revision, allow_patterns=_SKELETON_FILES))
            options = {"revision": revision, "variant": variant, "use_safetensors": True}
            return Path(DiffusionPipeline.download(name, **options))
    except Exception as error:
        raise ConfigError(_not_from_hub(name, revision, error)) from error


def reason(error: BaseException, limit: int = 400) -> str:
    """Return an error's whole message in one line, cut between words."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit].rsplit(' ', 1)[0]} …"


def _check_parts(folder: ModelFolder) -> None:
    """Check that the parts of the index are those of its class, and that their classes are supported."""
    known = folder.family.components
    for part, value in folder.index.items():
        if part.startswith("_") or not isinstance(value, list):
            continue
        if len(value) != 2 or not all(one is None or isinstance(one, str) for one in value):
            raise ConfigError(
                f"{folder.name}: model_index.json says {part} {str(value)[:60]}, which is no class"
            )
        if value == _ABSENT or part in folder.family.load_options:
            continue
        if part not in known:
            raise ConfigError(
                f"{folder.name} has a part {part}, which a {folder.index['_class_name']} does not have"
            )
        library, class_name = value
        if library not in ("diffusers", "transformers") or (known[part] and class_name not in known[part]):
            served = f": {' or '.join(known[part])} is supported" if known[part] else ""
            raise ConfigError(f"{folder.name}: its {part} is a {library}.{class_name}{served}")
    optional = set(folder.family.text_encoders) if len(folder.family.text_encoders) > 1 else set()
    optional |= {encoder.replace("text_encoder", "tokenizer") for encoder in optional}
    for part in known:
        if part not in folder.components and part not in optional:
            raise ConfigError(f"{folder.name} is not a complete pipeline: model_index.json names no {part}")


def _check_config(folder: ModelFolder, part: str, config: Mapping[str, Any]) -> None:
    """Nothing in a network's folder makes its library load something else than its weights."""
    said = config.get("_class_name", folder.class_name(part))
    if said != folder.class_name(part):
        raise ConfigError(
            f"{folder.name}: {part}/config.json is of a {said}, not of a {folder.class_name(part)}"
        )
    for key in ("quantization_config", "transformers_weights"):
        if config.get(key) is not None:
            raise ConfigError(
                f"{folder.name}: {part}/config.json has {key}, which is not supported: give a pipeline without"
            )
    if (folder.path / part / "adapter_config.json").exists():
        raise ConfigError(
            f"{folder.name}: {part} has an adapter beside its weights: remove {part}/adapter_config.json"
        )


def _index_name(stem: str, variant: str | None) -> str:
    return f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json"


def _shards(name: str, index: Path) -> list[Path]:
    """Return the weight files that an index names."""
    named = read_json(name, index).get("weight_map")
    files = sorted(set(map(str, named.values()))) if isinstance(named, dict) else []
    if not files or any(Path(file).name != file for file in files):
        raise ConfigError(
            f"{name}: {index.parent.name}/{index.name} names no weight files: get the folder again"
        )
    return [index.parent / file for file in files]


def _missing(name: str, place: Path, file: Path) -> str:
    """Why a weight file is not there, and what to do."""
    there = sorted(path.name for path in place.glob("*") if path.is_file()) if place.is_dir() else []
    stem = file.name.split(".")[0]
    variants = {
        match[1]
        for other in there
        if (match := re.fullmatch(rf"{re.escape(stem)}\.(\w[\w-]*)\.safetensors", other))
    }
    if variants:
        words = " or ".join(f"--variant {variant}" for variant in sorted(variants))
        return f"{name} has only variants of its {place.name} ({', '.join(sorted(variants))}): give {words}"
    if any(other.endswith((".bin", ".ckpt", ".pt", ".msgpack")) for other in there):
        return (
            f"{name} is not a complete pipeline in safetensors format: its {place.name} has pickled or other weights "
            "alone, which are never loaded: save the pipeline anew by diffusers, pipe.save_pretrained(FOLDER)"
        )
    return f"{name} is not a complete pipeline in safetensors format: it has no {place.name}/{file.name}"


def _nearby(path: Path) -> str:
    """Describe what to give instead of a folder that is no pipeline."""
    for below in ("policy", "."):
        if any(
            (path / below / name).is_file()
            for name in ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
        ):
            return f"; {path / below} holds LoRA weights: give it as --adapter, and its model as --model"
        if below != "." and (path / below / "model_index.json").is_file():
            return f"; {path / below} has: give that"
    return ""


def _single_file(path: Path) -> str:
    """How a checkpoint of one file becomes a folder."""
    if not path.is_file():
        return f"unknown model {path}: there is no such file"
    if path.suffix != ".safetensors":
        return (
            f"{path} is a single file that is no safetensors, which is never loaded: give a pipeline folder"
        )
    folder, class_name = path.with_suffix(""), _class_of_single_file(path)
    if class_name in _LONE_TRANSFORMERS:
        return (
            f"{path} is a single-file checkpoint of a transformer alone: give the folder of its {class_name}, "
            f"with {_LONE_TRANSFORMERS[class_name]}.from_single_file({json.dumps(str(path))}) saved as its transformer"
        )
    call = f"P.from_single_file({json.dumps(str(path))}).save_pretrained({json.dumps(str(folder))})"
    code = f"from diffusers import {class_name} as P; {call}"
    return (
        f"{path} is a single-file checkpoint: make a pipeline folder of it where there is a network, and give {folder} "
        f"as --model: python -c {shlex.quote(code)}"
    )


def _class_of_single_file(path: Path) -> str:
    """Return the pipeline class by the names of its weights; Stable Diffusion 1.x or 2.x without other evidence."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as opened:
            names = " ".join(opened.keys())
    except (OSError, SafetensorError):
        return "StableDiffusionPipeline"
    signs = {
        "joint_blocks.": "StableDiffusion3Pipeline",
        "distilled_guidance_layer.": "ChromaPipeline",
        "single_stream_modulation.": "Flux2KleinPipeline",
        "double_blocks.": "FluxPipeline",
        "layers.0.adaLN_modulation.": "ZImagePipeline",
        "transformer_blocks.0.img_mod.": "QwenImagePipeline",
        "conditioner.embedders.1.": "StableDiffusionXLPipeline",
    }
    found = next((cls for sign, cls in signs.items() if sign in names), "StableDiffusionPipeline")
    return "Flux2Pipeline" if found == "Flux2KleinPipeline" and "guidance_in." in names else found


def _not_from_hub(name: str, revision: str | None, error: Exception) -> str:
    """Why the Hub gave no pipeline, and what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    chain: Sequence[type[BaseException]] = _chain(error)
    if any(issubclass(kind, GatedRepoError) for kind in chain):
        return f"{name} is gated: accept its licence at huggingface.co/{name}, and log in with hf auth login"
    if any(issubclass(kind, RevisionNotFoundError) for kind in chain):
        return f"{name} has no revision {revision} on the Hugging Face Hub: give another --revision"
    if any(issubclass(kind, RepositoryNotFoundError) for kind in chain):
        return (
            f"unknown model {name}: the Hugging Face Hub has none of this name that you may read: give scenes, a "
            "pipeline folder or an id, owner/name; for a private one, hf auth login"
        )
    unreachable = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError)
    if any(issubclass(kind, unreachable) or kind.__name__ in _NETWORK_ERRORS for kind in chain):
        return (
            f"{name} is neither a folder here nor in the cache, and the Hugging Face Hub cannot be reached (offline): "
            f"where there is a network, run hf download {name} --local-dir FOLDER, copy FOLDER here and give it as "
            "--model"
        )
    return f"{name} cannot be got from the Hugging Face Hub: {type(error).__name__}: {reason(error)}"


_NETWORK_ERRORS = ("ConnectError", "ConnectTimeout", "ReadTimeout", "ProxyError", "SSLError", "NetworkError")


def _chain(error: BaseException | None) -> list[type[BaseException]]:
    """Return the types of an error and of its causes."""
    types: list[type[BaseException]] = []
    while error is not None and len(types) < 10:
        types.append(type(error))
        error = error.__cause__ or error.__context__
    return types
