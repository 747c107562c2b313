"""A pipeline without its weights: what it would take is known before anything is downloaded or computed."""

from typing import Any

import torch

from ppod_data.diffusion.models.components import component_class
from ppod_data.diffusion.models.model import DTYPES, DiffusionModel, build_pipeline, vae_dtype
from ppod_data.diffusion.models.model_folder import ModelFolder, open_folder, reason, resolve_model
from ppod_data.errors import ConfigError
from ppod_data.support.runtime import quiet_pipelines


def load_skeleton(
    name: str, *, revision: str | None = None, variant: str | None = None, compute_dtype: str = "fp32"
) -> DiffusionModel:
    """Load the pipeline `name` from its configuration files alone, its weights on torch's `meta` device.

    It embeds prompts and calls its network as `load_model`'s does, computing shapes only. From the Hub it takes
    configurations and tokenizers, some MB.

    Raises:
        ConfigError: unknown model, or a pipeline, network or scheduler that is not supported.
    """
    folder = open_folder(name, resolve_model(name, revision, weights=False), variant, weights=False)
    family = folder.family
    dtypes = {"vae": vae_dtype(name, folder.path, compute_dtype)}
    parts = {
        part: _component(folder, part, dtypes.get(part, DTYPES[compute_dtype])) for part in folder.components
    }
    pipeline = build_pipeline(folder, parts)
    latent_shape = family.latent_shape(pipeline)
    return DiffusionModel(
        name=name,
        revision=revision,
        variant=variant,
        adapter=None,
        fingerprint="0" * 64,
        pipeline=pipeline,
        family=family,
        scheduler_config=family.scheduler_config(pipeline, latent_shape),
        latent_shape=latent_shape,
        device="meta",
        compute_dtype=compute_dtype,
    )


def _component(folder: ModelFolder, component: str, dtype: torch.dtype) -> Any:
    """Load a part without its weights; a tokenizer or scheduler is loaded whole."""
    import diffusers

    kind, path = component_class(folder, component), folder.path / component
    try:
        with quiet_pipelines():
            if not issubclass(kind, torch.nn.Module):
                return kind.from_pretrained(path, local_files_only=True)
            with torch.device("meta"):
                if issubclass(kind, diffusers.ModelMixin):
                    module = kind.from_config(kind.load_config(path))
                else:
                    module = kind(kind.config_class.from_pretrained(path))
            return module.to(dtype).eval().requires_grad_(False)
    except Exception as error:
        raise ConfigError(f"{folder.name}: its {component} cannot be built: {reason(error)}") from error
