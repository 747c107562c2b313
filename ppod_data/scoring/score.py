"""Score every image of a data set with one or more reward models, shard by shard, decoding each image once.

The scores of a shard are one Parquet file: a pure function of the shard, the reward model and the batch size.
An existing file is complete. An image that cannot be scored is a row with the reason, and is never paired.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from PIL.Image import Image

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError, RewardError
from ppod_data.format.images import decode_image, pixels_sha256
from ppod_data.format.shards import committed_shards, parts_in
from ppod_data.format.sums import open_table, seal_table
from ppod_data.format.tables import SAMPLES, SCORES, check_name, part_name, read_table, write_table
from ppod_data.rewards import RewardModel
from ppod_data.rewards.each import Trial, score_each
from ppod_data.rewards.usage import Usage
from ppod_data.scoring.rows import OK, Outcome, ShardRows, as_outcome, as_table, read_rows, usage_here
from ppod_data.storage.files import DataPath
from ppod_data.storage.real_folders import refuse_linked_folders
from ppod_data.support.prefetch import map_ahead
from ppod_data.support.progress import SILENT, Progress
from ppod_data.support.runtime import one_thread

_DECODERS = 8  # threads at most; with fewer, a fast GPU waits for PNGs


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """The result of one call of `score`, and the state of the score table."""

    name: str
    scorer: str
    revision: str
    num_scored: int
    """Images that this call scored."""
    num_failed: int
    """Images that this call could not score; their rows hold the reason."""
    num_skipped: int
    """Images whose rows existed already."""
    first_failure: str | None
    num_scores: int
    """Rows with a score in the whole table; mean, low and high are over these."""
    mean: float | None
    low: float | None
    """The lowest score."""
    high: float | None
    usage: Usage | None = None
    """Requests and tokens of a reward behind a service, of all processes; None for other rewards."""


Scored: TypeAlias = "Iterator[tuple[int, list[ShardRows]]]"
"""(shard, the rows that `score_shard` returns), in any order."""
Here: TypeAlias = Callable[[Iterable[int]], Scored]
"""Scores shards in this process."""
Engine: TypeAlias = Callable[[Iterable[int], Here], Scored]
"""Scores shards elsewhere, or some of them here."""


def score(dataset: Dataset, reward: RewardModel, *, name: str, **options: Any) -> ScoreSummary:
    """Write `scores/<name>` by one reward model. Options and errors are those of `score_all`."""
    return score_all(dataset, {name: reward}, **options)[0]


def score_all(
    dataset: Dataset,
    rewards: Mapping[str, RewardModel],
    *,
    batch_size: int = 64,
    retry_failed: bool = False,
    device: str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    shards: Collection[int] | None = None,
    progress: Progress = SILENT,
    engine: Engine | None = None,
) -> list[ScoreSummary]:
    """Write `scores/<name>` for each name of `rewards`, for the finished shards i with i % world_size == rank.

    Args:
        dataset: the data set.
        rewards: the reward models by table name.
        batch_size: images passed to a reward model at once; batches never cross a shard.
        retry_failed: score rows again that failed before.
        device: the reward models' device; its type is recorded in the tables' metadata.
        rank: this worker.
        world_size: the number of workers.
        shards: score only these; None for all.
        progress: counts images, or scores if there are several rewards.
        engine: scores the shards that lack scores; None for this process.

    Raises:
        ConfigError: a table holds scores of another scorer or revision, or of other images, or a reward scored
            no image at all. Nothing is then written of that reward, unless this worker has only a share of the
            shards: others may be able to score theirs.
        RewardError: a reward fails for every image: it raises for all of its first images, or does not return
            one number an image.
        DamagedError: an image does not match its row.
        RewardUnavailableError: a reward model no longer responds; finished shards are kept.
    """
    refuse_linked_folders(dataset.root)
    is_share = world_size > 1 or shards is not None
    tables = [_Table.open(dataset, name, reward, is_share, retry_failed) for name, reward in rewards.items()]
    trials = [table.trial for table in tables]
    sizes = {
        shard: len(rewards) * len(dataset.spec.shard_range(shard))
        for shard in committed_shards(dataset.root)
        if shard % world_size == rank and (shards is None or shard in shards)
    }
    progress.start(sum(sizes.values()), "images" if len(rewards) == 1 else "scores")

    def finish(shard: int, parts: list[ShardRows]) -> None:
        for table, rows in zip(tables, parts, strict=True):
            table.add(shard, rows, batch_size, device)
        num_scored = sum(len(rows.todo) for rows in parts)
        progress.skip(sizes[shard] - num_scored)
        state = "scored" if num_scored else "was there"
        progress.note(f"shard {shard:06d} {state}")

    def lacking() -> Iterator[int]:
        for shard in sizes:
            parts = read_rows(dataset, rewards, shard, retry_failed)
            if any(rows.todo for rows in parts):
                yield shard
            else:
                finish(shard, parts)

    def here(shards: Iterable[int]) -> Scored:
        options: dict[str, Any] = {"retry_failed": retry_failed, "device": device, "progress": progress}
        for shard in shards:
            yield shard, score_shard(dataset, rewards, shard, batch_size, trials=trials, **options)

    for shard, parts in engine(lacking(), here) if engine else here(lacking()):
        finish(shard, parts)
    for table in tables:
        table.refuse_if_nothing_was_scored()
        seal_table(table.folder, dataset.spec)
    return [table.summary() for table in tables]


def score_shard(
    dataset: Dataset,
    rewards: Mapping[str, RewardModel],
    shard: int,
    batch_size: int,
    *,
    retry_failed: bool = False,
    device: str = "cpu",
    progress: Progress = SILENT,
    trials: Sequence[Trial] | None = None,
) -> "list[ShardRows]":
    """Return the rows of one shard with their outcomes, for each reward. Nothing is written.

    Images are decoded once, in order, and wait for each reward until its batch is full. The batches of a reward
    therefore do not depend on the other rewards. Arguments are those of `score_all`; `trials` holds each
    reward's record over shards, None for a single shard.
    """
    parts = read_rows(dataset, rewards, shard, retry_failed)
    models = list(rewards.values())
    waiting: list[list[tuple[int, str, Image]]] = [[] for _ in models]

    def flush(which: int) -> None:
        rows, prompts, images = zip(*waiting[which], strict=True)
        with one_thread(device):
            trial = trials[which] if trials is not None else None
            outcomes = [as_outcome(result) for result in score_each(models[which], prompts, images, trial)]
        parts[which].outcomes.update(zip(rows, outcomes, strict=True))
        waiting[which].clear()
        progress.advance(len(rows))

    todo = [set(rows.todo) for rows in parts]
    images = read_table(dataset.root / "samples" / part_name(shard), SAMPLES, ["image"])["image"]
    samples = parts[0].samples.append_column("image", images)
    for row, prompt, image in _decoded(samples, sorted(set().union(*todo)), ahead=batch_size):
        for which in range(len(models)):
            if row in todo[which] and isinstance(image, Outcome):
                parts[which].outcomes[row] = image
                progress.advance(1)
            elif row in todo[which] and not isinstance(image, Outcome):
                waiting[which].append((row, prompt, image))
                if len(waiting[which]) == batch_size:
                    flush(which)
    for which in range(len(models)):
        if waiting[which]:
            flush(which)
        parts[which].note_usage(models[which])
    return parts


_Decoded: TypeAlias = "tuple[int, str, Image | Outcome]"
"""(row, prompt, verified image or the reason for its absence)."""


def _decoded(samples: pa.Table, rows: Sequence[int], ahead: int) -> Iterator[_Decoded]:
    """Yield each of these rows, decoded by other threads up to `ahead` images in advance."""
    threads = min(_DECODERS, os.cpu_count() or 1)
    return map_ahead(lambda row: _decode(samples, row), rows, threads=threads, ahead=ahead)


def _decode(samples: pa.Table, row: int) -> _Decoded:
    name, prompt = samples["sample_id"][row].as_py(), samples["prompt"][row].as_py()
    try:
        image = decode_image((samples["image"][row].as_py() or {}).get("bytes") or b"")
    except DamagedError as error:
        return row, prompt, as_outcome(f"DamagedError: {error}")
    if pixels_sha256(image) != samples["image_pixels_sha256"][row].as_py():
        raise DamagedError(f"the image of sample {name} is not the one that was committed: make it again")
    return row, prompt, image


@dataclass
class _Table:
    """The scores of one reward model, as they grow."""

    folder: DataPath
    reward: RewardModel
    num_shards: int
    writes: bool
    """Write parts at once instead of holding them until an image has a score.

    True for one of several workers, and once the table holds a score.
    """
    trial: Trial = field(default_factory=Trial)
    """The record of the reward model."""
    num_scored: int = 0
    num_failed: int = 0
    num_skipped: int = 0
    first_failure: str | None = None
    usage: dict[str, Usage] = field(default_factory=dict)
    """What each process has asked of the reward's service."""
    held: list[tuple[DataPath, pa.Table]] = field(default_factory=list)
    """Parts to write once any image has a score."""

    @classmethod
    def open(
        cls, dataset: Dataset, name: str, reward: RewardModel, is_share: bool, is_retry: bool
    ) -> "_Table":
        """Open a table. Raises ConfigError for a table of another scorer or revision."""
        folder = dataset.root / "scores" / check_name(name, "a score table")
        has_scores = _check_existing(folder, reward, dataset.spec.num_shards)
        trial = Trial(proven=has_scores or is_retry)
        return cls(folder, reward, dataset.spec.num_shards, has_scores or is_share, trial)

    def add(self, shard: int, rows: "ShardRows", batch_size: int, device: str) -> None:
        """Count a scored shard, and write its part."""
        outcomes = [rows.outcomes[row] for row in rows.todo]
        failures = [outcome.status for outcome in outcomes if outcome.status != OK]
        self.num_scored += len(outcomes) - len(failures)
        self.num_failed += len(failures)
        self.num_skipped += len(rows.samples) - len(outcomes)
        self.first_failure = self.first_failure or next(iter(failures), None)
        self.usage |= rows.usage
        part = self.folder / part_name(shard)
        if outcomes or not part.exists():
            self.held.append((part, as_table(rows, self.reward, batch_size, device)))
        self.writes = self.writes or self.num_scored > 0
        while self.writes and self.held:
            open_table(self.folder)
            write_table(*self.held.pop(0))

    def refuse_if_nothing_was_scored(self) -> None:
        """Raise ConfigError if no image at all has a score."""
        if self.held:
            if problem := self.trial.problem(self.reward.name):
                raise RewardError(f"{problem}; nothing was written")
            raise ConfigError(
                f"{self.reward.name} could score none of {self.num_failed} images ({self.first_failure}): "
                f"choose a reward that knows these prompts; nothing was written"
            )

    def summary(self) -> ScoreSummary:
        """Return the counts of this call and the statistics of the table."""
        usage = self.usage | usage_here(self.reward)
        return ScoreSummary(
            name=self.folder.name,
            scorer=self.reward.name,
            revision=self.reward.revision,
            num_scored=self.num_scored,
            num_failed=self.num_failed,
            num_skipped=self.num_skipped,
            first_failure=self.first_failure,
            usage=sum(usage.values(), Usage()) if usage else None,
            **_statistics(self.folder, self.num_shards),
        )


def _check_existing(folder: DataPath, reward: RewardModel, num_shards: int) -> bool:
    """Return true if the table holds a score. Raises ConfigError for another scorer or revision."""
    any_score = False
    for shard in parts_in(folder, num_shards):
        table = read_table(folder / part_name(shard), SCORES, ["score", "scorer", "revision"])
        ours = {"scorer": reward.name, "revision": reward.revision}
        for column, new in ours.items():
            others = [old for old in pc.unique(table[column]).to_pylist() if old != new]
            if others:
                raise ConfigError(
                    f"scores/{folder.name} was made by {column} {others[0]!r}, and this is {column} {new!r}: "
                    "give the new scores a name of their own with --as NAME"
                )
        any_score = any_score or table["score"].null_count < len(table)
    return any_score


def _statistics(folder: DataPath, num_shards: int) -> dict[str, Any]:
    """Return the statistics of all rows with a score."""
    parts = [
        read_table(folder / part_name(shard), SCORES, ["score"]) for shard in parts_in(folder, num_shards)
    ]
    scores = pa.concat_tables(parts)["score"].drop_null() if parts else pa.array([], pa.float64())
    low_high = pc.min_max(scores).as_py()
    return {
        "num_scores": len(scores),
        "mean": pc.mean(scores).as_py(),
        "low": low_high["min"],
        "high": low_high["max"],
    }
