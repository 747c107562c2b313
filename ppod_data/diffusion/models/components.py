"""The parts of a pipeline folder, each loaded by its own class."""

from typing import Any

import torch

from ppod_data.diffusion.models.model_folder import ModelFolder, reason
from ppod_data.errors import ConfigError
from ppod_data.support.runtime import importing, is_out_of_memory, quiet_pipelines

_SHOWN = 3


def component_class(folder: ModelFolder, component: str) -> Any:
    """Return the class of a part, in diffusers or transformers. Raises ConfigError for an unknown class."""
    name = folder.class_name(component)
    with importing():
        import diffusers
        import transformers

        found = getattr(diffusers, name, None) or getattr(transformers, name, None)
    is_scheduler = isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)
    if found is None or is_scheduler != (component == "scheduler"):
        raise ConfigError(f"{folder.name}: its {component} is a {name}, which is not supported")
    return found


def load_component(folder: ModelFolder, component: str, dtype: torch.dtype) -> Any:
    """Load a part whole: a network in `dtype`, or a tokenizer or scheduler.

    Raises:
        ConfigError: it cannot be loaded, or lacks weights; and of the denoiser and the VAE, weights that have no place.
    """
    kind, path = component_class(folder, component), folder.path / component
    try:
        with quiet_pipelines():
            if not issubclass(kind, torch.nn.Module):
                return kind.from_pretrained(path, local_files_only=True)
            network, info = kind.from_pretrained(
                path,
                dtype=dtype,
                variant=folder.variant_of(component),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(f"{folder.name}: its {component} cannot be loaded: {reason(error)}") from error
    refuse_partial(folder, component, info)
    return network


def refuse_partial(folder: ModelFolder, component: str, info: dict[str, Any]) -> None:
    """Raise ConfigError where weights are missing, of another shape or, in networks of diffusers, left over."""
    wrong = {"lacks": sorted(map(str, info["missing_keys"]))}
    wrong["has other shapes of"] = sorted(str(key) for key in info["mismatched_keys"])
    if component in (folder.family.denoiser, "vae"):
        wrong["has, without a place for it,"] = sorted(map(str, info["unexpected_keys"]))
    for what, keys in wrong.items():
        if keys:
            more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            raise ConfigError(
                f"{folder.name}: the weights of its {component} do not fit its config.json: the file {what} "
                f"{', '.join(keys[:_SHOWN])}{more}"
            )
