"""Estimates and notes before a data set is generated."""

import math

from ppod_data.diffusion.models.long_prompts import describe_cut_prompts
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.model_folder import has_weights
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.diffusion.models.source import DEFAULT_MODEL, ModelSource
from ppod_data.diffusion.noise_left import noise_left
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.cost import GenerationPlan, measure_seconds, plan_generation
from ppod_data.generation.generate import select_shards
from ppod_data.scenes.captions import GRAMMAR, unreadable
from ppod_data.support.formatting import counted

_HUB_FILES = 10_000
_PROMPT_LENGTH = 40


def is_here(source: ModelSource) -> bool:
    """Return whether the model's weights are on this machine."""
    return has_weights(source.model or DEFAULT_MODEL)


def plan_data(spec: GenerationSpec, model: DiffusionModel | None) -> tuple[GenerationPlan, float | None]:
    """Estimate what a data set takes, and measure the seconds in one process with a loaded model."""
    skeleton = load_skeleton(
        spec.model, revision=spec.revision, variant=spec.variant, compute_dtype=spec.compute_dtype
    )
    seconds = None if model is None else measure_seconds(spec, model)
    return plan_generation(skeleton, spec), seconds


def notes_on(spec: GenerationSpec, model: DiffusionModel | None) -> list[str]:
    """Return what to know of a data set before it is generated, a line each.

    Noted are prompts that the model cuts, prompts that the scenes scorers cannot read, and noise that stays in the
    images. Without a loaded model, only noise is noted.
    """
    notes = []
    if model is not None:
        cut = describe_cut_prompts(model, spec.prompts, spec.negative_prompt)
        notes += [] if cut is None else [cut]
        notes += _unreadable(spec) if spec.model == DEFAULT_MODEL else []
    left = noise_left(spec)
    if left is not None:
        notes.append(
            f"noise of the steps {spec.window} stays in the images: fine detail varies by {left[0]:.3f}, and by "
            f"{left[1]:.3f} without noise; leave --noisy-steps out to avoid it"
        )
    return notes


def many_files_note(spec: GenerationSpec) -> list[str]:
    """Return a line on folders with more files than the Hub takes; none if they have fewer."""
    if spec.num_shards <= _HUB_FILES:
        return []
    batches = math.ceil(spec.num_samples / _HUB_FILES / spec.batch_size)
    return [
        f"{counted(spec.num_shards, 'shard')}: folders of more than {_HUB_FILES:,} files, which the Hugging Face Hub "
        f"refuses; give --images-per-shard {batches * spec.batch_size} or more"
    ]


def _unreadable(spec: GenerationSpec) -> list[str]:
    refused = unreadable(spec.prompts)
    if not refused:
        return []
    example = refused[0] if len(refused[0]) <= _PROMPT_LENGTH else refused[0][: _PROMPT_LENGTH - 1] + "…"
    return [
        f"the scenes scorers cannot read {len(refused):,} of {counted(len(spec.prompts), 'prompt')}, "
        f"such as {example!r}: {GRAMMAR}, or score with another reward"
    ]


def spec_share(spec: GenerationSpec, shards: tuple[int, int] | None, rank: int, world_size: int) -> list[int]:
    """Return the shards of a range that a process makes. Raises ConfigError for a range outside the data set."""
    return select_shards(spec, shards, rank, world_size)
