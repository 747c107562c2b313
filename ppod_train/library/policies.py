"""Policies and models as the public functions take them."""

from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TypeAlias

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.source import ModelSource, as_dtype
from ppod_data.errors import ConfigError
from ppod_data.support.processes import resolve_device
from ppod_train.run.run_record import RunRecord, run_of

AnyModel: TypeAlias = str | PathLike[str] | ModelSource | DiffusionModel
"""A model: its name or folder, a policy's folder RUN or RUN/policy, a source, or a loaded model."""


def load_policy(
    policy: str | PathLike[str], *, device: str = "cpu", compute_dtype: str | None = None
) -> DiffusionModel:
    """Load the policy of a run, with the model that it was trained from.

    >>> load_policy("run").adapter
    'run/policy'

    Args:
        policy: RUN, or RUN/policy.
        device: Torch device; `auto` is a GPU if there is one.
        compute_dtype: fp32, bf16 or fp16; None as the run trained it.

    Raises:
        ConfigError: The folder is not of a run.
    """
    source, run = source_of(policy)
    if run is None:
        raise ConfigError(f"{policy} holds no policy of a run: give RUN or RUN/policy")
    if compute_dtype is not None:
        source = replace(source, compute_dtype=as_dtype(compute_dtype))
    return source.load(resolve_device(device))


def source_of(model: AnyModel) -> tuple[ModelSource, RunRecord | None]:
    """Return where a model is loaded from, and the run that trained it; None for a model that no run trained.

    A policy without the name of a model has the model of its run.
    """
    source = _plain_source(model)
    run = run_of(source.adapter) or run_of(source.model)
    if run is None:
        return source, None
    dtype = source.compute_dtype or run.generation.get("compute_dtype")
    source = replace(source, compute_dtype=dtype)
    if run.whole or source.model is not None:
        return source, run
    return replace(
        source,
        model=run.model,
        revision=source.revision or run.generation.get("revision"),
        variant=source.variant or run.generation.get("variant"),
    ), run


def _plain_source(model: AnyModel) -> ModelSource:
    if isinstance(model, ModelSource):
        return model
    if isinstance(model, DiffusionModel):
        return ModelSource(
            model=model.name,
            revision=model.revision,
            variant=model.variant,
            adapter=model.adapter,
            compute_dtype=as_dtype(model.compute_dtype),
        )
    folder = Path(model)
    if folder.name != "policy" and run_of(str(folder / "policy")) is not None:
        folder = folder / "policy"
    run = run_of(str(folder))
    if run is None:
        return ModelSource(model=fspath(model))
    return ModelSource(model=str(folder)) if run.whole else ModelSource(adapter=str(folder))


def base_of(source: ModelSource, run: RunRecord | None) -> ModelSource | None:
    """Return what a policy was trained from: the model without its adapter; None if that is unknown."""
    if source.adapter is not None:
        return replace(source, adapter=None)
    if run is not None and run.whole:
        return ModelSource(
            model=run.model,
            revision=run.generation.get("revision"),
            variant=run.generation.get("variant"),
            compute_dtype=source.compute_dtype,
        )
    return None
