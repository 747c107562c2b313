"""Copies of a loaded model that share what they do not change."""

import copy
from collections.abc import Sequence
from dataclasses import replace

from ppod_data.diffusion.models.model import DiffusionModel, add_adapter


def copied(model: DiffusionModel, components: Sequence[str] = ()) -> DiffusionModel:
    """Return a model with its own network; other parts of the pipeline are shared.

    Args:
        model: The model, which stays as it is.
        components: Other parts to copy, such as text_encoder.
    """
    pipeline = copy.copy(model.pipeline)
    for component in (model.family.denoiser, *components):
        setattr(pipeline, component, copy.deepcopy(getattr(pipeline, component)))
    return replace(model, pipeline=pipeline)


def with_adapter(model: DiffusionModel, adapter: str) -> DiffusionModel:
    """Return a copy of a model without an adapter, as `load_model` loads it with one. Raises as `load_model`."""
    result = copied(model, model.family.text_encoders)
    identity = add_adapter(result.pipeline, model.family, model.name, adapter, model.fingerprint)
    for part in result.parts:
        part.to(model.device).eval().requires_grad_(False)
    return replace(result, adapter=adapter, fingerprint=identity)
