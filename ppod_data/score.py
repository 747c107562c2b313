"""Score every image of a data set with a reward model, shard by shard.

The scores of a shard are one Parquet file, a pure function of the shard, the reward model and the batch size;
a file that exists is done. An image that cannot be scored is a row with the reason, and is never paired.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ppod_data.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.files import canonical_json
from ppod_data.images import decode_image, pixels_sha256
from ppod_data.memory import is_out_of_memory
from ppod_data.rewards import RewardModel
from ppod_data.seal import open_table, seal_table
from ppod_data.shards import committed_shards
from ppod_data.tables import SAMPLES, SCORES, check_name, part_name, read_table, write_table

OK = "ok"
_REASON_LENGTH = 200


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """What one call of `score` did, and what the score table holds now."""

    name: str
    scorer: str
    revision: str
    num_scored: int
    """Images that got a score now."""
    num_failed: int
    """Images that could not be scored now; their rows hold the reason."""
    num_skipped: int
    """Images whose rows were there already."""
    first_failure: str | None
    num_scores: int
    """Rows with a score in the whole table, over which mean, low and high are taken."""
    mean: float | None
    low: float | None
    """The lowest score."""
    high: float | None


@dataclass(frozen=True)
class _Outcome:
    """One row: a finite score with status "ok", or None with "failed: reason"."""

    score: float | None
    status: str


def score(
    dataset: Dataset,
    reward: RewardModel,
    *,
    name: str,
    batch_size: int = 64,
    retry_failed: bool = False,
    device: str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    on_batch: Callable[[int], None] = lambda num_images: None,
    on_shard: Callable[[int, int], None] = lambda shard, num_scored: None,
) -> ScoreSummary:
    """Write `scores/<name>` for the finished shards i of `dataset` with i % world_size == rank.

    Args:
        batch_size: images that the reward model sees at once; batches never cross a shard.
        retry_failed: score the rows again that failed before.
        device: where the reward model computes: recorded in the table's metadata.
        on_batch: called with the number of images of every batch that was scored.
        on_shard: called with each shard's number and how many of its images were scored (0: it was there).

    Raises:
        ConfigError: the table holds scores of another scorer or revision, or of other images, or no image at
            all could be scored; nothing is written then.
        DamagedError: an image that is not the one its row describes.
    """
    folder = dataset.root / "scores" / check_name(name, "a score table")
    any_score = _check_existing(folder, reward)
    held: list[tuple[Path, pa.Table]] = []
    counts = {"scored": 0, "failed": 0, "skipped": 0}
    first_failure: str | None = None
    for shard in committed_shards(dataset.root):
        if shard % world_size != rank:
            continue
        rows = _ShardRows.read(dataset.root, folder, shard, retry_failed)
        rows.skip(dataset.excluded)
        counts["skipped"] += len(rows.outcomes) - len(rows.todo)
        for batch in _batches(rows.todo, batch_size):
            for row, outcome in zip(batch, _score_rows(reward, rows, batch), strict=True):
                rows.outcomes[row] = outcome
                counts["scored" if outcome.status == OK else "failed"] += 1
                first_failure = first_failure or (None if outcome.status == OK else outcome.status)
            on_batch(len(batch))
        if rows.todo or not (folder / part_name(shard)).exists():
            held.append((folder / part_name(shard), _table(rows, reward, batch_size, device)))
        any_score = any_score or counts["scored"] > 0
        if any_score:
            _write(held)
        on_shard(shard, len(rows.todo))
    if held:
        raise ConfigError(
            f"{reward.name} could score none of {counts['failed']} images ({first_failure}): "
            "choose a reward that knows these prompts; nothing was written"
        )
    seal_table(folder, dataset.spec)
    return ScoreSummary(
        name=name,
        scorer=reward.name,
        revision=reward.revision,
        num_scored=counts["scored"],
        num_failed=counts["failed"],
        num_skipped=counts["skipped"],
        first_failure=first_failure,
        **_statistics(folder),
    )


@dataclass
class _ShardRows:
    """The images of a shard and what is known of their scores."""

    samples: pa.Table
    """sample_id, prompt, image_pixels_sha256, and image where there is something to do."""
    outcomes: list[_Outcome]
    todo: list[int]
    """Rows that are to be scored."""

    @classmethod
    def read(cls, root: Path, folder: Path, shard: int, retry_failed: bool) -> "_ShardRows":
        """Raises ConfigError where the existing scores are of other images."""
        path = root / "samples" / part_name(shard)
        columns = ["sample_id", "prompt", "image_pixels_sha256"]
        part = folder / part_name(shard)
        if not part.exists():
            samples = read_table(path, SAMPLES, [*columns, "image"])
            return cls(
                samples, [_Outcome(None, "failed: not tried")] * len(samples), list(range(len(samples)))
            )
        samples = read_table(path, SAMPLES, columns)
        scores = read_table(part, SCORES)
        for column in ("sample_id", "image_pixels_sha256"):
            if samples[column].to_pylist() != scores[column].to_pylist():
                raise ConfigError(
                    f"{part}: scores of other images than the data set holds now: remove it and score again"
                )
        outcomes = [
            _Outcome(*row)
            for row in zip(scores["score"].to_pylist(), scores["status"].to_pylist(), strict=True)
        ]
        todo = [row for row, outcome in enumerate(outcomes) if retry_failed and outcome.status != OK]
        return cls(read_table(path, SAMPLES, [*columns, "image"]) if todo else samples, outcomes, todo)

    def skip(self, excluded: Mapping[str, str]) -> None:
        """Leave excluded samples without a score."""
        ids = self.samples["sample_id"].to_pylist() if excluded else []
        for row in [row for row in self.todo if ids and ids[row] in excluded]:
            self.outcomes[row] = _Outcome(None, "failed: excluded")
            self.todo.remove(row)


def _check_existing(folder: Path, reward: RewardModel) -> bool:
    """Whether the table holds a score already. Raises ConfigError for those of another scorer or revision."""
    any_score = False
    for path in sorted(folder.glob("*.parquet")):
        table = read_table(path, SCORES, ["score", "scorer", "revision"])
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


def _batches(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _score_rows(reward: RewardModel, rows: _ShardRows, batch: Sequence[int]) -> list[_Outcome]:
    records = rows.samples.take(batch).to_pylist()
    images = []
    for record in records:
        try:
            images.append(image := decode_image((record["image"] or {}).get("bytes") or b""))
        except DamagedError as error:
            raise DamagedError(
                f"the image of sample {record['sample_id']}: {error}: make it again"
            ) from error
        if pixels_sha256(image) != record["image_pixels_sha256"]:
            raise DamagedError(
                f"the image of sample {record['sample_id']} is not the one that was committed: make it again"
            )
    return _score_images(reward, [record["prompt"] for record in records], images)


def _score_images(reward: RewardModel, prompts: Sequence[str], images: Sequence[Any]) -> list[_Outcome]:
    """Score a batch; where that raises, its images one by one, so that one image cannot spoil the others."""
    try:
        values = reward.score(prompts, images)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if len(images) > 1:
            return [_score_images(reward, [prompts[i]], [images[i]])[0] for i in range(len(images))]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return [_Outcome(None, f"failed: {reason[:_REASON_LENGTH]}")]
    if len(values) != len(images):
        raise PpodError(
            f"{reward.name} gave {len(values)} scores for {len(images)} images: it must give one an image"
        )
    return [
        _Outcome(float(value), OK)
        if math.isfinite(value)
        else _Outcome(None, f"failed: the score is {value}")
        for value in values
    ]


def _table(rows: _ShardRows, reward: RewardModel, batch_size: int, device: str) -> pa.Table:
    count = len(rows.outcomes)
    columns = {
        "sample_id": rows.samples["sample_id"],
        "score": [outcome.score for outcome in rows.outcomes],
        "scorer": [reward.name] * count,
        "revision": [reward.revision] * count,
        "image_pixels_sha256": rows.samples["image_pixels_sha256"],
        "status": [outcome.status for outcome in rows.outcomes],
    }
    made_by = canonical_json({"dtype": "fp32", "device": device, "batch_size": batch_size})
    table = pa.table(columns, schema=SCORES)
    return table.replace_schema_metadata({**table.schema.metadata, b"ppod": made_by.encode()})


def _write(held: list[tuple[Path, pa.Table]]) -> None:
    while held:
        path, table = held.pop(0)
        open_table(path.parent)
        write_table(path, table)


def _statistics(folder: Path) -> dict[str, Any]:
    """Over the rows with a score, of all parts."""
    parts = [read_table(path, SCORES, ["score"]) for path in sorted(folder.glob("*.parquet"))]
    scores = pa.concat_tables(parts)["score"].drop_null() if parts else pa.array([], pa.float64())
    low_high = pc.min_max(scores).as_py()
    return {
        "num_scores": len(scores),
        "mean": pc.mean(scores).as_py(),
        "low": low_high["min"],
        "high": low_high["max"],
    }
