"""The scored images of a data set, one prompt after another: no table is in memory as a whole.

Samples are in the order of the spec, and a part of a score table is of the images of its shard. So a pass over the
shards meets every prompt once, and needs a few shards and one prompt at a time.

Shapes: K scored images of one prompt.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppod_data.ahead import ahead
from ppod_data.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.score import OK
from ppod_data.tables import part_name

_SAMPLE = ("image_index", "sample_id", "prompt_id", "image_pixels_sha256")
_SCORE = ("sample_id", "score", "status", "image_pixels_sha256")


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The images of one prompt that have a score."""

    prompt_id: str
    ids: list[str]
    """By image_index."""
    scores: NDArray[np.float64]
    """[K], finite for a single score table."""


class ScoredImages:
    """One pass over the images of a data set by the weighted sum of some score tables; what it met is known after it.

    An image that lacks one of the scores has none. Iterating raises ConfigError for a table that mixes scorers or
    revisions, or is of other images, and DamagedError for samples that are not in the order of the spec.
    """

    def __init__(self, dataset: Dataset, weights: Mapping[str, float]) -> None:
        """Raises ConfigError for an unknown score table."""
        self.identities: dict[str, tuple[str, str]] = {}
        """Scorer and revision of each table."""
        self.num_unscored = 0
        self._dataset = dataset
        self._weights = weights
        self._parts = {name: set(dataset.score_parts(name)) for name in weights}

    def __iter__(self) -> Iterator[Group]:
        """Every prompt of which there is an image, in the prompts' order."""
        prompt: str | None = None
        rows: list[tuple[int, str, float]] = []
        to_come = iter(self._dataset.spec.prompt_ids)
        for shard, samples, scores in ahead(self._read()):
            known = self._known(shard, samples, scores)
            for index, sample_id, prompt_id in _rows(samples, "image_index", "sample_id", "prompt_id"):
                if prompt_id != prompt:
                    if prompt_id not in to_come:  # which passes over the prompts before it
                        raise DamagedError(
                            f"{self._dataset.root / 'samples' / part_name(shard)}: its samples are not those of "
                            "the spec, in its order: get this part again"
                        )
                    if prompt is not None:
                        yield _group(prompt, rows)
                    prompt, rows = prompt_id, []
                if sample_id in known:
                    rows.append((index, sample_id, known[sample_id]))
                else:
                    self.num_unscored += 1
        if prompt is not None:
            yield _group(prompt, rows)
        self._check_all_seen()

    def _read(self) -> Iterator[tuple[int, Any, list[Any]]]:
        """Of each shard the samples, and the part of each score table or None."""
        for shard in self._dataset.shards():
            yield (
                shard,
                self._dataset.sample_part(shard, _SAMPLE),
                [
                    self._dataset.score_part(name, shard) if shard in parts else None
                    for name, parts in self._parts.items()
                ],
            )

    def _known(self, shard: int, samples: Any, scores: list[Any]) -> dict[str, float]:
        """The weighted sum of the scores of each image of a shard that has them all."""
        pixels = dict(_rows(samples, "sample_id", "image_pixels_sha256"))
        columns = [
            self._usable(name, shard, table, pixels)
            for name, table in zip(self._weights, scores, strict=True)
            if table is not None
        ]
        if len(columns) < len(scores):
            return {}
        shared = set.intersection(*(set(column) for column in columns))
        parts = list(zip(self._weights.values(), columns, strict=True))
        return {key: sum(weight * column[key] for weight, column in parts) for key in shared}

    def _usable(self, name: str, shard: int, table: Any, pixels: Mapping[str, str]) -> dict[str, float]:
        """The finite scores of a part; `pixels` has the hash of each image that it may be about."""
        self._identify(name, table)
        usable: dict[str, float] = {}
        for sample_id, score, status, judged in _rows(table, *_SCORE):
            if sample_id not in pixels:
                raise ConfigError(
                    f"scores/{name}/{part_name(shard)} holds sample {sample_id}, which is not in this shard here: get "
                    "the shard, or score again"
                )
            if judged != pixels[sample_id]:
                raise ConfigError(
                    f"scores/{name} is of other images (sample {sample_id}): remove it and score again"
                )
            if status == OK and score is not None and math.isfinite(score):
                usable[sample_id] = score
        return usable

    def _identify(self, name: str, table: Any) -> None:
        for identity in set(_rows(table, "scorer", "revision")):
            if self.identities.setdefault(name, identity) != identity:
                raise ConfigError(f"scores/{name} mixes scorers or revisions: remove it and score again")

    def _check_all_seen(self) -> None:
        """Raise ConfigError for scores of images that are not here, and for a table without any."""
        here = set(self._dataset.shards())
        for name, parts in self._parts.items():
            for shard in sorted(parts - here):
                self._usable(name, shard, self._dataset.score_part(name, shard), {})
            if name not in self.identities:
                raise ConfigError(f"scores/{name} holds no scores: remove it and score again")


def _group(prompt: str, rows: list[tuple[int, str, float]]) -> Group:
    rows.sort()
    return Group(
        prompt_id=prompt,
        ids=[sample_id for _, sample_id, _ in rows],
        scores=np.array([score for _, _, score in rows], np.float64),
    )


def _rows(table: Any, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[column].to_pylist() for column in columns), strict=True)
