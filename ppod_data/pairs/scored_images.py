"""The scored images of a data set, one prompt after another: no table is in memory as a whole.

Samples are in the order of the spec, and a part of a score table is of the images of its shard. So a pass over the
shards meets every prompt once, and needs a few shards and one prompt at a time.

Shapes: N images of a shard, K scored images of one prompt, R rewards.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, product
from typing import Any, TypeAlias

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.format.tables import SAMPLES, part_name
from ppod_data.pairs.reward_sum import RewardSum
from ppod_data.scoring.rows import OK
from ppod_data.support.prefetch import prefetch

_SAMPLE = ("image_index", "sample_id", "prompt_id", "image_pixels_sha256")

_Piece: TypeAlias = tuple[NDArray[np.int64], list[str], NDArray[np.float64]]
"""Some images of a prompt: image_index, sample_id, scores [images, R]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The images of one prompt that have a score."""

    prompt_id: str
    ids: list[str]
    """By image_index."""
    scores: NDArray[np.float64]
    """[K], the sum; finite for a single score table."""
    columns: NDArray[np.float64]
    """[K, R], of each score table."""


class ScoredImages:
    """One pass over the images of a data set by the weighted sum of some score tables; what it met is known after it.

    An image that lacks one of the scores has none. Iterating raises ConfigError for a table that mixes scorers or
    revisions, or is of other images, and DamagedError for samples that are not in the order of the spec.
    """

    def __init__(self, dataset: Dataset, rewards: RewardSum) -> None:
        """Open the score tables. Raises ConfigError for an unknown one."""
        self.identities: dict[str, tuple[str, str]] = {}
        """Scorer and revision of each table."""
        self.num_unscored = 0
        self._dataset = dataset
        self._rewards = rewards
        self._parts = {name: set(dataset.score_parts(name)) for name in rewards.weights}

    def __iter__(self) -> Iterator[Group]:
        """Every prompt of which there is an image, in the prompts' order."""
        prompt: str | None = None
        pieces: list[_Piece] = []
        to_come = iter(self._dataset.spec.prompt_ids)
        for shard, samples, scores in prefetch(self._read()):
            known, values = self._known(shard, samples, scores)
            self.num_unscored += int((~known).sum())
            places, ids = samples["image_index"].to_numpy(), samples["sample_id"].to_pylist()
            start = 0
            for prompt_id, end in _runs(samples["prompt_id"].combine_chunks()):
                if prompt_id != prompt:
                    if prompt_id not in to_come:  # which passes over the prompts before it
                        raise DamagedError(
                            f"{self._dataset.root / 'samples' / part_name(shard)}: its samples are not those of "
                            "the spec, in its order: get this part again"
                        )
                    if prompt is not None:
                        yield self._group(prompt, pieces)
                    prompt, pieces = prompt_id, []
                rows = start + np.flatnonzero(known[start:end])
                pieces.append((places[rows], [ids[row] for row in rows.tolist()], values[rows]))
                start = end
        if prompt is not None:
            yield self._group(prompt, pieces)
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

    def _known(
        self, shard: int, samples: Any, scores: list[Any]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return for each image of a shard whether it has all scores, and its scores [N, R]."""
        known, columns = np.ones(len(samples), bool), np.zeros((len(samples), len(scores)))
        for column, (name, table) in enumerate(zip(self._parts, scores, strict=True)):
            if table is None:
                known[:] = False
                continue
            usable, values = self._usable(name, shard, table, samples)
            known &= usable
            columns[:, column] = values
        return known, columns

    def _usable(
        self, name: str, shard: int, table: Any, samples: Any
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """For each of the images that a part may be about whether it has a finite score there, and the score."""
        self._identify(name, table)
        at = pc.index_in(table["sample_id"], value_set=samples["sample_id"].combine_chunks())
        if (row := pc.index(at.is_null(), True).as_py()) >= 0:
            raise ConfigError(
                f"scores/{name}/{part_name(shard)} holds sample {table['sample_id'][row]}, which is not in this shard "
                "here: get the shard, or score again"
            )
        same = pc.equal(table["image_pixels_sha256"], samples["image_pixels_sha256"].take(at))
        if (row := pc.index(same.fill_null(False), False).as_py()) >= 0:
            raise ConfigError(
                f"scores/{name} is of other images (sample {table['sample_id'][row]}): remove it and score again"
            )
        found = table["score"].fill_null(math.nan).to_numpy()
        good = pc.equal(table["status"], OK).fill_null(False).to_numpy() & np.isfinite(found)
        rows = at.to_numpy()[good]
        usable, values = np.zeros(len(samples), bool), np.zeros(len(samples))
        usable[rows], values[rows] = True, found[good]
        return usable, values

    def _identify(self, name: str, table: Any) -> None:
        made_by = [pc.unique(table[column]).to_pylist() for column in ("scorer", "revision")]
        for identity in product(*made_by):
            if self.identities.setdefault(name, identity) != identity:
                raise ConfigError(f"scores/{name} mixes scorers or revisions: remove it and score again")

    def _group(self, prompt: str, pieces: list[_Piece]) -> Group:
        places, ids, scores = zip(*pieces, strict=True)
        names = list(chain.from_iterable(ids))
        order = np.argsort(np.concatenate(places), kind="stable")
        columns = np.concatenate(scores)[order]
        return Group(
            prompt_id=prompt,
            ids=[names[row] for row in order.tolist()],
            scores=self._rewards.combine(columns),
            columns=columns,
        )

    def _check_all_seen(self) -> None:
        """Raise ConfigError for scores of images that are not here, and for a table without any."""
        here = set(self._dataset.shards())
        for name, parts in self._parts.items():
            for shard in sorted(parts - here):
                self._usable(name, shard, self._dataset.score_part(name, shard), SAMPLES.empty_table())
            if name not in self.identities:
                raise ConfigError(f"scores/{name} holds no scores: remove it and score again")


def _runs(names: Any) -> Iterator[tuple[str, int]]:
    """Each run of equal values of an Arrow array, and the row after it."""
    runs = pc.run_end_encode(names)
    return zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True)
