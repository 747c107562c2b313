"""Jobs of an engine's workers: generating and scoring a data set's shards."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ppod_data.cluster.job import MapShards
from ppod_data.errors import ConfigError
from ppod_data.format.manifest import create_manifest, read_manifest
from ppod_data.format.shards import active_shards, committed_shards, refuse_sealed, shard_committed
from ppod_data.rewards.named import spelling_of
from ppod_data.storage.files import DataPath
from ppod_data.support.progress import SILENT, Progress

if TYPE_CHECKING:
    from ppod_data.dataset.dataset import Dataset
    from ppod_data.format.spec import GenerationSpec
    from ppod_data.generation.generate import GenerateSummary
    from ppod_data.rewards import RewardModel
    from ppod_data.scoring.rows import ShardRows
    from ppod_data.scoring.score import Engine, Scored


def _read_shared_spec(root: DataPath, fingerprint: str) -> None:
    """Raise ConfigError if this worker does not see the driver's data set."""
    with contextlib.suppress(ConfigError):
        if read_manifest(root)[0].fingerprint == fingerprint:
            return
    raise ConfigError(
        f"the node {socket.gethostname()} does not see {root}: put the data set into a folder that all nodes share"
    )


@dataclass(frozen=True)
class GenerateJob:
    """Generation of a data set's shards: `generate.make_shard` on a worker."""

    root: DataPath
    spec: "GenerationSpec"

    def prepare(self, device: str, progress: Progress) -> Callable[[int], bool]:
        """Load the model. Raises ConfigError if the worker sees another folder or model than the driver."""
        from ppod_data.diffusion.models.model import load_model
        from ppod_data.generation.generate import make_shard, recorder
        from ppod_data.generation.sampling import build_policy

        spec = self.spec
        _read_shared_spec(self.root, spec.fingerprint)
        model = load_model(
            spec.model,
            revision=spec.revision,
            variant=spec.variant,
            adapter=spec.adapter,
            device=device,
            compute_dtype=spec.compute_dtype,
            safety_check=spec.safety_checker is not None,
        )
        if model.fingerprint != spec.policy_fingerprint:
            raise ConfigError(
                f"{spec.model} on the node {socket.gethostname()} is another model than here "
                f"({model.fingerprint[:16]}, not {spec.policy_fingerprint[:16]}): copy the same files to every node"
            )
        policy, records = build_policy(spec, model), recorder()

        def work(shard: int) -> bool:
            if shard_committed(self.root, shard):
                return False
            refuse_sealed(self.root)
            make_shard(self.root, spec, model, policy, shard, records=records, progress=progress)
            return True

        return work

    def units(self, shard: int, result: bool) -> int:
        """Return the images that were made now."""
        return len(self.spec.shard_range(shard)) if result else 0


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """Scoring of a data set's shards: `score.score_shard` on a worker. The driver writes the rows."""

    root: DataPath
    fingerprint: str
    """The fingerprint of the data set's spec."""
    rewards: tuple[tuple[str, str, str], ...]
    """(table, argument of `load_reward`, the driver's revision)."""
    batch_size: int
    retry_failed: bool

    def prepare(self, device: str, progress: Progress) -> "Callable[[int], list[ShardRows]]":
        """Load the rewards. Raises ConfigError if the worker sees another folder or reward model than the driver."""
        from ppod_data.dataset.dataset import Dataset
        from ppod_data.rewards import load_reward
        from ppod_data.rewards.each import Trial
        from ppod_data.scoring.score import score_shard

        _read_shared_spec(self.root, self.fingerprint)
        models = {table: load_reward(text, device) for table, text, _ in self.rewards}
        for table, text, revision in self.rewards:
            if models[table].revision != revision:
                raise ConfigError(
                    f"{text} on the node {socket.gethostname()} is another reward model than here "
                    f"(revision {models[table].revision}, not {revision}): copy the same files to every node"
                )

        trials = [Trial(proven=self.retry_failed) for _ in models]

        def work(shard: int) -> "list[ShardRows]":
            dataset = Dataset.open(self.root)  # reopened: the exclusion list may have grown
            options: dict[str, Any] = {
                "retry_failed": self.retry_failed,
                "device": device,
                "progress": progress,
            }
            return score_shard(dataset, models, shard, self.batch_size, trials=trials, **options)

        return work

    def units(self, shard: int, result: "list[ShardRows]") -> int:
        """Return the scores of a shard."""
        return sum(len(rows.todo) for rows in result)


def generate_by(
    map_shards: MapShards,
    root: DataPath,
    spec: "GenerationSpec",
    *,
    shards: Sequence[int],
    license: str = "unknown",
    progress: Progress = SILENT,
) -> "GenerateSummary":
    """Run `generate.generate` on an engine's workers, with the same files, arguments and errors.

    Raises:
        ConfigError: also if a worker does not see the folder, or sees another model under the spec's name.
        PpodError: also if a shard's workers die repeatedly.
    """
    from ppod_data.generation.generate import free_first, summarize

    start = time.monotonic()
    root = root.absolute()
    create_manifest(root, spec, license)
    committed = set(committed_shards(root))
    missing = [shard for shard in shards if shard not in committed]
    progress.start(sum(len(spec.shard_range(shard)) for shard in shards), "images")
    for shard in shards:
        if shard in committed:
            progress.skip(len(spec.shard_range(shard)))
            progress.note(f"shard {shard:06d} was there")
    if missing:
        refuse_sealed(root)
    made: list[int] = []
    job = GenerateJob(root, spec)
    free = free_first(missing, partial(shard_committed, root), partial(active_shards, root))
    with contextlib.closing(map_shards(job, free, progress=progress)) as done:
        for shard, is_new in done:
            if not shard_committed(root, shard) and shard not in committed_shards(root):
                raise ConfigError(
                    f"a worker made shard {shard}, but it is not in {root}: put the data set into a folder that "
                    "all nodes share"
                )
            if is_new:
                made.append(shard)
            else:
                progress.skip(len(spec.shard_range(shard)))
            progress.note(f"shard {shard:06d} {'made' if is_new else 'was there'}")
    return summarize(spec, shards, made, time.monotonic() - start)


def score_job(
    dataset: "Dataset",
    rewards: "Sequence[str | RewardModel]",
    models: "Mapping[str, RewardModel]",
    *,
    batch_size: int,
    retry_failed: bool,
) -> ScoreJob:
    """Return the job that scores a data set by `models`, which are `rewards` by the names of their tables."""
    return ScoreJob(
        root=dataset.root.absolute(),
        fingerprint=dataset.spec.fingerprint,
        rewards=tuple(
            (table, reward if isinstance(reward, str) else spelling_of(model), model.revision)
            for reward, (table, model) in zip(rewards, models.items(), strict=True)
        ),
        batch_size=batch_size,
        retry_failed=retry_failed,
    )


def score_engine(job: ScoreJob, map_shards: MapShards, progress: Progress) -> "Engine":
    """Return the `engine` of `score.score_all` that runs a job on an engine's workers."""

    def engine(shards: Iterable[int], here: object) -> "Scored":
        with contextlib.closing(map_shards(job, shards, progress=progress)) as done:
            yield from done

    return engine
