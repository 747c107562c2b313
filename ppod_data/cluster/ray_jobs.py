"""Jobs of Ray workers: generating and scoring a data set's shards."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppod_data.cluster.ray_engine import map_shards
from ppod_data.errors import ConfigError
from ppod_data.format.manifest import create_manifest, read_manifest
from ppod_data.format.shards import committed_shards, refuse_sealed, shard_committed
from ppod_data.storage.files import DataPath
from ppod_data.support.progress import SILENT, Progress

if TYPE_CHECKING:
    from ppod_data.dataset.dataset import Dataset
    from ppod_data.format.spec import GenerationSpec
    from ppod_data.generation.generate import GenerateSummary
    from ppod_data.rewards import RewardModel
    from ppod_data.scoring.score import Engine, ShardRows


def _read_shared_spec(root: DataPath, fingerprint: str) -> None:
    """Raise ConfigError if this worker does not see the driver's data set."""
    with contextlib.suppress(ConfigError):
        if read_manifest(root)[0].fingerprint == fingerprint:
            return
    raise ConfigError(
        f"the Ray node {socket.gethostname()} does not see {root}: put the data set into a folder that all nodes share"
    )


@dataclass(frozen=True)
class GenerateJob:
    """Generation of a data set's shards: `generate.make_shard` on a worker."""

    root: DataPath
    spec: "GenerationSpec"

    def prepare(self, device: str) -> Callable[[int], None]:
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
                f"{spec.model} on the Ray node {socket.gethostname()} is another model than here "
                f"({model.fingerprint[:16]}, not {spec.policy_fingerprint[:16]}): copy the same files to every node"
            )
        policy, records = build_policy(spec, model), recorder()

        def work(shard: int) -> None:
            if not shard_committed(self.root, shard):
                refuse_sealed(self.root)
                make_shard(self.root, spec, model, policy, shard, records=records)

        return work


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

    def prepare(self, device: str) -> "Callable[[int], list[ShardRows]]":
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
                    f"{text} on the Ray node {socket.gethostname()} is another reward model than here "
                    f"(revision {models[table].revision}, not {revision}): copy the same files to every node"
                )

        trials = [Trial(proven=self.retry_failed) for _ in models]

        def work(shard: int) -> "list[ShardRows]":
            dataset = Dataset.open(self.root)  # reopened: the exclusion list may have grown
            options: dict[str, Any] = {"retry_failed": self.retry_failed, "device": device}
            return score_shard(dataset, models, shard, self.batch_size, trials=trials, **options)

        return work


def generate_on_ray(
    root: DataPath,
    spec: "GenerationSpec",
    device: str,
    *,
    shards: Sequence[int],
    license: str = "unknown",
    progress: Progress = SILENT,
) -> "GenerateSummary":
    """Run `generate.generate` on a cluster's workers, inside `connected`, with the same files, arguments and errors.

    The images of a shard are reported at once, when it is complete.

    Raises:
        ConfigError: also if a worker does not see the folder, or sees another model under the spec's name.
        PpodError: also if a shard's workers die repeatedly.
    """
    from ppod_data.generation.generate import summarize

    start = time.monotonic()
    root = root.absolute()
    create_manifest(root, spec, license)
    committed = set(committed_shards(root))
    missing = [shard for shard in shards if shard not in committed]
    progress.start(sum(len(spec.shard_range(shard)) for shard in shards), "images")
    for shard in shards:
        if shard in committed:
            progress.skip(len(spec.shard_range(shard)))
            progress.note(f"shard {shard} of {spec.num_shards} was there")
    if missing:
        refuse_sealed(root)
    job = GenerateJob(root, spec)
    with contextlib.closing(map_shards(job, missing, device, progress=progress)) as done:
        for shard, _ in done:
            if not shard_committed(root, shard) and shard not in committed_shards(root):
                raise ConfigError(
                    f"a Ray node made shard {shard}, but it is not in {root}: put the data set into a folder that "
                    "all nodes share"
                )
            progress.advance(len(spec.shard_range(shard)))
            progress.note(f"shard {shard} of {spec.num_shards} made")
    return summarize(spec, shards, missing, time.monotonic() - start)


def score_engine(
    dataset: "Dataset",
    rewards: "Mapping[str, RewardModel]",
    texts: Sequence[str],
    device: str,
    *,
    batch_size: int,
    retry_failed: bool,
    progress: Progress = SILENT,
) -> "Engine":
    """Return the `engine` of `score.score_all` that uses the workers of a cluster, inside `connected`.

    `texts` are the arguments of `load_reward`, in the order of `rewards`.
    """
    named = zip(rewards.items(), texts, strict=True)
    job = ScoreJob(
        root=dataset.root.absolute(),
        fingerprint=dataset.spec.fingerprint,
        rewards=tuple((table, text, model.revision) for (table, model), text in named),
        batch_size=batch_size,
        retry_failed=retry_failed,
    )

    def engine(shards: Iterable[int]) -> "Iterator[tuple[int, list[ShardRows]]]":
        with contextlib.closing(map_shards(job, shards, device, progress=progress)) as done:
            for shard, parts in done:
                progress.advance(sum(len(rows.todo) for rows in parts))
                yield shard, parts

    return engine
