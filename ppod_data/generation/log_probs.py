"""The log-probabilities that another policy gives the recorded steps, shard by shard.

The reference of a later stage, or the same policy in the trainer's numerics: a table beside the samples, so that
training needs no second network. A shard's table is a pure function of the shard and the policy.

Shapes: B trajectories, R stored latents, T steps, C H W latent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.trajectory_reader import Reader
from ppod_data.diffusion.models.model import DiffusionModel, resized
from ppod_data.diffusion.policy import Policy
from ppod_data.errors import ConfigError, NonFiniteError
from ppod_data.format.provenance import provenance_of, with_provenance
from ppod_data.format.shards import committed_shards
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.sums import seal_table
from ppod_data.format.tables import LOG_PROBS, check_name, part_name, read_table, write_table
from ppod_data.format.trajectory import Trajectory, rows_before
from ppod_data.generation.sampling import build_policy
from ppod_data.storage.files import DataPath
from ppod_data.storage.real_folders import refuse_linked_folders
from ppod_data.support.progress import SILENT, Progress
from ppod_data.support.runtime import device_kind, one_thread


@dataclass(frozen=True, kw_only=True)
class LogProbsSummary:
    """The result of one call of `compute_log_probs`."""

    name: str
    policy_fingerprint: str
    num_computed: int
    """Trajectories whose log-probabilities this call computed."""
    num_skipped: int
    """Trajectories whose rows existed already."""
    max_difference: float | None
    """The largest |log-probability − the one stored with the sample| of the steps that this call computed."""


def compute_log_probs(
    dataset: Dataset,
    model: DiffusionModel,
    *,
    name: str,
    batch_size: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    steps: range | None = None,
    progress: Progress = SILENT,
) -> LogProbsSummary:
    """Write `log_probs/<name>`: log π(x_{t-1} | x_t, c) under `model` of every stored step with a density.

    Guidance, schedule and prompts are those of the data set; a step that is not stored is null.

    Args:
        batch_size: trajectories in one network call; None for the data set's own, which makes the replay of the
            policy that made the data exact.
        steps: compute these steps of the chain alone, for training with `trained_steps`; the others are null.
        progress: counts trajectories.

    Raises:
        ConfigError: a model of another latent shape, or a table of this name computed by another policy.
        NonFiniteError: the model gives NaN or infinity; the shard is not written.
    """
    refuse_linked_folders(dataset.root)
    spec, size = dataset.spec, batch_size or dataset.spec.batch_size
    folder = dataset.root / "log_probs" / check_name(name, "a table of log-probabilities")
    model = _of_the_same_shape(model, spec)
    made = {
        "policy_fingerprint": model.fingerprint,
        "compute_dtype": model.compute_dtype,
        "batch_size": size,
        "steps": None if steps is None else [steps.start, steps.stop],
    }
    shards = [shard for shard in committed_shards(dataset.root) if shard % world_size == rank]
    missing = [shard for shard in shards if not _is_made(folder / part_name(shard), made)]
    policy = build_policy(spec, model) if missing else None
    largest: float | None = None
    progress.start(sum(len(spec.shard_range(shard)) for shard in shards), "trajectories")
    for shard in shards:
        if policy is None or shard not in missing:
            progress.skip(len(spec.shard_range(shard)))
            progress.note(f"shard {shard:06d} was there")
            continue
        ids = [name for name in spec.shard_sample_ids(shard) if name not in dataset.excluded]
        rows: list[list[float | None]] = []
        for batch in _batches(dataset, ids, size):
            with one_thread(model.device):
                values = trajectory_log_probs(spec, policy, batch, steps)
            largest = max([largest or 0.0, *_differences(batch, values)])
            rows += values
            progress.advance(len(batch))
        _write(folder / part_name(shard), ids, rows, made | {"device": device_kind(model.device)})
        progress.skip(len(spec.shard_range(shard)) - len(ids))
        progress.note(f"shard {shard:06d} computed")
    seal_table(folder, spec)
    computed = sum(len(spec.shard_range(shard)) for shard in missing)
    return LogProbsSummary(
        name=name,
        policy_fingerprint=model.fingerprint,
        num_computed=computed,
        num_skipped=sum(len(spec.shard_range(shard)) for shard in shards) - computed,
        max_difference=largest,
    )


def _of_the_same_shape(model: DiffusionModel, spec: GenerationSpec) -> DiffusionModel:
    """Return the model at the spec's image size. Raises ConfigError if its latents have another shape."""
    model = resized(model, spec.height, spec.width)
    if model.latent_shape != spec.latent_shape:
        raise ConfigError(
            f"{model.name} has latents {model.latent_shape}, and the data set {spec.latent_shape}: "
            "give a model of the same shape"
        )
    return model


def _batches(dataset: Dataset, ids: Sequence[str], size: int) -> Iterator[list[Trajectory]]:
    """Yield the trajectories of some samples, `size` at a time, while the next batch is read ahead."""
    index = dataset.trajectory_index(ids).to_pylist()
    reader = Reader.of(dataset, index)
    for first in range(0, len(index), size):
        batch = reader.read(range(first, min(first + size, len(index))))
        reader.expect(range(first + size, min(first + 2 * size, len(index))))
        yield batch


@torch.no_grad()
def trajectory_log_probs(
    spec: GenerationSpec, policy: Policy, batch: Sequence[Trajectory], only: range | None = None
) -> list[list[float | None]]:
    """Return log π(x_{t-1} | x_t, c) of the recorded steps, fp64 [B][T]; None for a step without density or not stored.

    Args:
        only: compute these steps alone; the others are None too.

    Raises:
        NonFiniteError: NaN or infinity.
    """
    latents = torch.stack([trajectory.latents.float() for trajectory in batch]).to(policy.device)
    numbers = {prompt: number for number, prompt in enumerate(spec.prompts)}
    prompt = policy.prompts.of([numbers[trajectory.prompt] for trajectory in batch])
    result: list[list[float | None]] = [[None] * spec.num_inference_steps for _ in batch]
    steps = [i for i in batch[0].step_index if policy.schedule.stochastic[i] and (only is None or i in only)]
    for i, row in zip(steps, rows_before(batch[0].latent_index, steps), strict=True):
        step = torch.full((len(batch),), i, device=policy.device)
        values = policy.log_prob(latents[:, row], latents[:, row + 1], step, prompt)
        if not bool(torch.isfinite(values).all()):
            raise NonFiniteError(
                f"step {i} has a NaN or infinite log-probability under this model: "
                "try --compute-dtype fp32; nothing of this shard was written"
            )
        for number, value in enumerate(values.tolist()):
            result[number][i] = value
    return result


def _differences(batch: Sequence[Trajectory], values: Sequence[Sequence[float | None]]) -> list[float]:
    """Return |computed − stored| of every step of the batch that has both."""
    return [
        abs(new - old)
        for trajectory, row in zip(batch, values, strict=True)
        for old, new in zip(trajectory.log_probs, row, strict=True)
        if old is not None and new is not None
    ]


def policy_of(table: Any) -> str:
    """Return the fingerprint of the policy of a `Dataset.log_probs` table; "" if it is not recorded."""
    return str(provenance_of(table.schema.metadata, "log_probs").get("policy_fingerprint", ""))


def steps_of(table: Any) -> range | None:
    """Return the chain steps that a `Dataset.log_probs` table was computed for; None for all."""
    bounds = provenance_of(table.schema.metadata, "log_probs").get("steps")
    return None if bounds is None else range(*bounds)


def _is_made(path: DataPath, made: dict[str, Any]) -> bool:
    """Return true if the part exists. Raises ConfigError if it was computed with other options."""
    if not path.exists():
        return False
    old = provenance_of(read_table(path, LOG_PROBS, []).schema.metadata, path)
    for key, value in made.items():
        if old.get(key) != value:
            raise ConfigError(
                f"log_probs/{path.parent.name} was computed with {key} {old.get(key)!r}, not {value!r}: "
                "give another --name"
            )
    return True


def _write(path: DataPath, ids: list[str], rows: list[list[float | None]], made: dict[str, Any]) -> None:
    table = pa.table({"sample_id": ids, "log_probs": rows}, schema=LOG_PROBS)
    made = {key: value for key, value in made.items() if value is not None}
    write_table(path, table.replace_schema_metadata(with_provenance(table.schema.metadata, made)))
