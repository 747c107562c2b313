"""The images of a shard with their scores, and the table of them."""

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.format.provenance import with_provenance
from ppod_data.format.tables import SAMPLES, SCORES, part_name, read_table
from ppod_data.rewards import RewardModel
from ppod_data.rewards.named import spelling_of
from ppod_data.rewards.usage import Usage, usage_of
from ppod_data.storage.files import DataPath
from ppod_data.support.runtime import device_kind

OK = "ok"


@dataclass(frozen=True)
class Outcome:
    """One row: a finite score with status "ok", or None with "failed: reason"."""

    score: float | None
    status: str


def as_outcome(result: float | str) -> Outcome:
    """Return the outcome of a score, or of the reason for its absence."""
    return Outcome(None, f"failed: {result}") if isinstance(result, str) else Outcome(result, OK)


@dataclass
class ShardRows:
    """The images of a shard and the state of their scores."""

    samples: pa.Table
    """sample_id, prompt, image_pixels_sha256."""
    outcomes: dict[int, Outcome]
    """The outcome of each row; those of `todo` are filled in."""
    todo: list[int]
    """Rows to score."""
    usage: dict[str, Usage] = field(default_factory=dict)
    """What the process that scored these rows had asked of a service by then, by the process."""

    @classmethod
    def read(cls, samples: pa.Table, part: DataPath, retry_failed: bool) -> "ShardRows":
        """Read the outcomes of these samples from `part`. Raises ConfigError if its scores are of other images."""
        if not part.exists():
            return cls(samples, {}, list(range(len(samples))))
        scores = read_table(part, SCORES)
        for column in ("sample_id", "image_pixels_sha256"):
            if samples[column].to_pylist() != scores[column].to_pylist():
                raise ConfigError(
                    f"{part}: scores of other images than the data set holds now: remove it and score again"
                )
        known = zip(scores["score"].to_pylist(), scores["status"].to_pylist(), strict=True)
        outcomes = {row: Outcome(*values) for row, values in enumerate(known)}
        todo = [row for row, outcome in outcomes.items() if retry_failed and outcome.status != OK]
        return cls(samples, outcomes, todo)

    def skip(self, excluded: Mapping[str, str]) -> None:
        """Leave excluded samples without a score."""
        ids = self.samples["sample_id"].to_pylist() if excluded else []
        for row in [row for row in self.todo if ids and ids[row] in excluded]:
            self.outcomes[row] = Outcome(None, "failed: excluded")
            self.todo.remove(row)

    def note_usage(self, reward: RewardModel) -> None:
        """Note what this process has asked of a reward's service so far."""
        self.usage = usage_here(reward)


def usage_here(reward: RewardModel) -> dict[str, Usage]:
    """Return what this process has asked of a reward's service, by the process; empty for other rewards."""
    usage = usage_of(reward)
    return {} if usage is None else {f"{socket.gethostname()}:{os.getpid()}": usage}


def read_rows(dataset: Dataset, names: Iterable[str], shard: int, retry_failed: bool) -> "list[ShardRows]":
    """Return the state of a shard's images in each of the tables `names`."""
    name = part_name(shard)
    columns = ["sample_id", "prompt", "image_pixels_sha256"]
    samples = read_table(dataset.root / "samples" / name, SAMPLES, columns)
    parts = [ShardRows.read(samples, dataset.root / "scores" / table / name, retry_failed) for table in names]
    for rows in parts:
        rows.skip(dataset.excluded)
    return parts


def as_table(rows: ShardRows, reward: RewardModel, batch_size: int, device: str) -> pa.Table:
    """Return the score table of a shard."""
    count = len(rows.samples)
    outcomes = [rows.outcomes[row] for row in range(count)]
    columns = {
        "sample_id": rows.samples["sample_id"],
        "score": [outcome.score for outcome in outcomes],
        "scorer": [reward.name] * count,
        "revision": [reward.revision] * count,
        "image_pixels_sha256": rows.samples["image_pixels_sha256"],
        "status": [outcome.status for outcome in outcomes],
    }
    spelling = spelling_of(reward)
    made: dict[str, Any] = {"dtype": "fp32", "device": device_kind(device), "batch_size": batch_size}
    if spelling != reward.name:
        made["reward"] = spelling
    table = pa.table(columns, schema=SCORES)
    return table.replace_schema_metadata(with_provenance(table.schema.metadata, made))
