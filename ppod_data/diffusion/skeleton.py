"""A pipeline without its weights: what it would take is known before anything is downloaded or computed."""

from pathlib import Path
from typing import Any

import torch

from ppod_data.diffusion.model import DTYPES, DiffusionModel, read_index, resolve_model, vae_dtype
from ppod_data.quiet import quiet_pipelines


def load_skeleton(name: str, *, revision: str | None = None, compute_dtype: str = "fp32") -> DiffusionModel:
    """The pipeline `name` from its configuration files alone, its weights on torch's `meta` device.

    It embeds prompts and calls its network as `load_model`'s does, computing shapes only. From the Hub it takes
    configurations and tokenizers, some MB.

    Raises:
        ConfigError: unknown model, or a pipeline class or scheduler that is not supported.
    """
    import diffusers

    folder = resolve_model(name, revision, weights=False)
    index, family = read_index(name, folder)
    options: dict[str, Any] = {}
    for key, value in index.items():
        if isinstance(value, list) and key not in family.load_options:
            dtype = vae_dtype(folder, compute_dtype) if key == "vae" else DTYPES[compute_dtype]
            options[key] = _component(folder / key, value[0], value[1], dtype)
        elif not key.startswith("_"):
            options[key] = value
    pipeline = getattr(diffusers, index["_class_name"])(**options | dict(family.load_options))
    return DiffusionModel(
        name=name,
        revision=revision,
        adapter=None,
        fingerprint="0" * 64,
        pipeline=pipeline,
        family=family,
        scheduler_config=family.scheduler_config(pipeline),
        latent_shape=family.latent_shape(pipeline),
        device="meta",
        compute_dtype=compute_dtype,
    )


def _component(folder: Path, library: str | None, class_name: str | None, dtype: torch.dtype) -> Any:
    import diffusers
    import transformers

    if library is None or class_name is None:
        return None
    kind = getattr(diffusers if library == "diffusers" else transformers, class_name)
    if not issubclass(kind, torch.nn.Module):
        return kind.from_pretrained(folder)
    with torch.device("meta"):
        if library == "diffusers":
            module = kind.from_config(kind.load_config(folder))
        else:
            module = kind(kind.config_class.from_pretrained(folder))
    with quiet_pipelines():
        return module.to(dtype).eval().requires_grad_(False)
