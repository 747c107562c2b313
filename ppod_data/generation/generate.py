"""Sample images and record their denoising chains, shard by shard.

Shard i of a data set is a pure function of (generation spec, i): noise is keyed by what it is for, batches never
cross a shard, and every option that reaches a bit is in the spec. So resuming is making what is missing, and workers
need no coordination: each takes whole shards.

Shapes: B rows, T steps, C H W latent.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from PIL import Image

from ppod_data.dataset.dataset import create
from ppod_data.diffusion.models.model import DiffusionModel, decode_images
from ppod_data.diffusion.policy import Chain, Policy
from ppod_data.diffusion.schedule import Schedule, spec_schedule
from ppod_data.errors import ConfigError
from ppod_data.format.images import encode_pngs
from ppod_data.format.shards import Sample, ShardWriter, active_shards, refuse_sealed, shard_committed
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.trajectory import encode_latents, latent_rows
from ppod_data.generation.sampling import build_policy, check_finite, sample_batch
from ppod_data.generation.shared_steps import SharedLatents
from ppod_data.storage.files import DataPath, atomic_write, data_path
from ppod_data.support.canonical_json import canonical_json
from ppod_data.support.environment import environment
from ppod_data.support.progress import SILENT, Progress
from ppod_data.support.runtime import one_thread


@dataclass(frozen=True, kw_only=True)
class GenerateSummary:
    """What one call of `generate` did."""

    num_samples: int
    """Samples in the shards that were asked for."""
    num_made: int
    """Of those, made by this call; the others were there already."""
    num_shards_made: int
    seconds: float
    deterministic_steps: tuple[int, ...]
    """Steps of zero variance: recorded, but without a log-probability, and not in the loss."""


Records: TypeAlias = Callable[[GenerationSpec, DiffusionModel, Policy, range], list[Sample]]


def select_shards(
    spec: GenerationSpec, shards: tuple[int, int] | None, rank: int, world_size: int
) -> list[int]:
    """Return the shards of this worker: those of A:B (all if None) with i % world_size == rank.

    Raises:
        ConfigError: a range outside the data set.
    """
    first, end = shards if shards is not None else (0, spec.num_shards)
    if not 0 <= first < end <= spec.num_shards:
        raise ConfigError(
            f"shards {first}:{end} is no range of this data set: it has shards 0:{spec.num_shards}"
        )
    return [i for i in range(first, end) if i % world_size == rank]


def generate(
    root: DataPath,
    spec: GenerationSpec,
    model: DiffusionModel,
    *,
    shards: Sequence[int],
    license: str = "unknown",
    records: Records | None = None,
    progress: Progress = SILENT,
) -> GenerateSummary:
    """Make the missing ones of `shards` in the data set folder `root`, creating the folder when it is new.

    Args:
        records: (spec, model, policy, indices) -> the samples of a batch; `sample_records` unless given.
        progress: counts images.

    Raises:
        SpecMismatchError: the folder holds a data set made with another spec.
        ConfigError: the data set is sealed, and shards are missing, or the model does not take the spec's guidance
            scale, negative prompt or size; then nothing is written.
        NonFiniteError: the model gave NaN or infinite latents; the shard is not written.
    """
    root = data_path(root)
    policy = build_policy(spec, model)  # before a manifest freezes what the model refuses
    create(root, spec, license)
    records = records or recorder()
    start = time.monotonic()
    made: list[int] = []
    progress.start(sum(len(spec.shard_range(shard)) for shard in shards), "images")
    for shard in free_first(shards, partial(shard_committed, root), partial(active_shards, root)):
        if shard_committed(root, shard):
            progress.skip(len(spec.shard_range(shard)))
            progress.note(f"shard {shard:06d} was there")
            continue
        refuse_sealed(root)
        make_shard(root, spec, model, policy, shard, records=records, progress=progress)
        made.append(shard)
        progress.note(f"shard {shard:06d} made")
    return summarize(spec, shards, made, time.monotonic() - start)


def free_first(
    shards: Iterable[int], is_made: Callable[[int], bool], scan: Callable[[], Callable[[int], bool]]
) -> Iterator[int]:
    """Yield shards in order, deferring unfinished ones that another worker is writing.

    Deferred shards follow in random order, so that workers without an assigned range spread out.
    """
    deferred: list[int] = []
    is_active: Callable[[int], bool] | None = None
    for shard in shards:
        if not is_made(shard):
            is_active = is_active or scan()
            if is_active(shard):
                deferred.append(shard)
                continue
            is_active = None  # outdated by the time this shard is written
        yield shard
    random.shuffle(deferred)
    yield from deferred


def make_shard(
    root: DataPath,
    spec: GenerationSpec,
    model: DiffusionModel,
    policy: Policy,
    shard: int,
    *,
    records: Records,
    progress: Progress = SILENT,
) -> None:
    """Sample and commit one shard. If another worker committed it first, its shard stays.

    Args:
        root: the data set.
        spec: its generation spec.
        model: the model.
        policy: the model's policy on the spec's chain.
        shard: the shard.
        records: as of `generate`; `recorder()` for images that the policy samples.
        progress: as of `generate`.

    Raises:
        NonFiniteError: the model gave NaN or infinite latents; nothing is written.
    """
    device, indices = policy.device, spec.shard_range(shard)
    with one_thread(device), ShardWriter(root, shard) as writer:
        for first in range(indices.start, indices.stop, spec.batch_size):
            batch = range(first, min(first + spec.batch_size, indices.stop))
            for sample in records(spec, model, policy, batch):
                writer.add(sample)
            progress.advance(len(batch))
    if writer.committed:
        record = canonical_json(environment() | {"device": device}) + "\n"
        atomic_write(root / "environment" / f"{shard:06d}.json", record.encode())


def summarize(
    spec: GenerationSpec, shards: Sequence[int], made: Sequence[int], seconds: float
) -> GenerateSummary:
    """Return the summary of a call for `shards` that made the shards `made`."""
    schedule = spec_schedule(spec)
    return GenerateSummary(
        num_samples=sum(len(spec.shard_range(shard)) for shard in shards),
        num_made=sum(len(spec.shard_range(shard)) for shard in made),
        num_shards_made=len(made),
        seconds=seconds,
        deterministic_steps=tuple(i for i, stochastic in enumerate(schedule.stochastic) if not stochastic),
    )


def recorder() -> Records:
    """Return the `records` that sample images, for batches of one policy in order."""
    return partial(sample_records, kept=SharedLatents())


def sample_records(
    spec: GenerationSpec,
    model: DiffusionModel,
    policy: Policy,
    indices: range,
    *,
    kept: SharedLatents | None = None,
) -> list[Sample]:
    """Sample the rows and trajectory members of samples `indices`, ready for a shard."""
    chain = sample_batch(spec, policy, indices, record=True, kept=kept)
    check_finite(chain, indices)
    images = decode_images(model, chain.latents[-1])
    flags = _flags(spec, model, images)
    return to_samples(spec, policy.schedule, indices, chain, encode_pngs(images), flags)


def to_samples(
    spec: GenerationSpec,
    schedule: Schedule,
    indices: range,
    chain: Chain,
    images: Sequence[tuple[bytes, str]],
    flags: Sequence[bool | None],
) -> list[Sample]:
    """Return recorded chains with their images as samples.

    Args:
        spec: the generation spec.
        schedule: its noise schedule.
        indices: the samples' numbers.
        chain: their chains.
        images: (bytes of a file, hash of its pixels) of each.
        flags: a safety checker's verdict on each image, None without a checker.
    """
    step_index = list(spec.stored_steps())
    rows = latent_rows(step_index)
    latents = chain.latents[rows].transpose(0, 1).contiguous().cpu()
    stochastic = list(schedule.stochastic)
    log_probs = chain.log_probs.T.tolist()
    samples = []
    for row, index in enumerate(indices):
        prompt, k = spec.place(index)
        prompt_id = spec.prompt_ids[prompt]
        samples.append(
            Sample(
                sample_id=spec.sample_id(prompt_id, k),
                prompt_id=prompt_id,
                prompt=spec.prompts[prompt],
                image_index=k,
                seed=spec.seed,
                image_bytes=images[row][0],
                image_pixels_sha256=images[row][1],
                timesteps=schedule.timesteps.round().int().tolist(),
                stochastic=stochastic,
                log_probs=[
                    value if has_density else None
                    for value, has_density in zip(log_probs[row], stochastic, strict=True)
                ],
                step_index=step_index,
                latents_safetensors=encode_latents(latents[row], rows),
                flagged=flags[row],
            )
        )
    return samples


def _flags(
    spec: GenerationSpec, model: DiffusionModel, images: Sequence[Image.Image]
) -> Sequence[bool | None]:
    """Return the safety checker's verdict on each image; None for a spec without a checker."""
    if spec.safety_checker is None:
        return [None] * len(images)
    if model.safety is None or model.safety.fingerprint != spec.safety_checker:
        raise ConfigError(
            "the spec has a safety checker that the model was not loaded with: load_model(…, safety_check=True)"
        )
    return model.safety.flags(images)
