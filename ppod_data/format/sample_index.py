"""From a sample's id to its number in the spec, 20 bytes a sample: a dictionary of texts would take ten times that.

Sample n is in shard n // images_per_shard, so no table is read to find a sample.

Shapes: N samples of the spec.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppod_data.format.spec import GenerationSpec

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleNumbers:
    """The numbers of all samples of a spec by their ids, 32 hex digits, in two halves."""

    high: NDArray[np.uint64]
    """[N], the first 16 digits, ascending."""
    low: NDArray[np.uint64]
    """[N], the others."""
    numbers: NDArray[np.int32]
    """[N], the number of the sample with this id."""
    most_alike: int
    """How many ids share their first half at most: 1, unless by a rare chance."""

    @classmethod
    def of(cls, spec: GenerationSpec) -> "SampleNumbers":
        """About a microsecond a sample: every id is a hash."""
        halves = np.frombuffer(spec.sample_digests(), ">u8").reshape(-1, 2).astype(np.uint64)
        order = np.argsort(halves[:, 0], kind="stable")
        high = halves[order, 0]
        _, counts = np.unique(high, return_counts=True)
        return cls(
            high=high, low=halves[order, 1], numbers=order.astype(np.int32), most_alike=int(counts.max())
        )

    def find(self, ids: Sequence[str] | Any) -> NDArray[np.int64]:
        """The number of each sample, -1 where there is none of this name; `ids` are texts or an Arrow array of them."""
        column = pa.array(ids, pa.string()) if isinstance(ids, Sequence) else ids
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        encoded = column.dictionary_encode()
        numbers = self._find([str(name) for name in encoded.dictionary.to_pylist()])
        rows = encoded.indices.fill_null(len(numbers)).to_numpy(zero_copy_only=False)
        found: NDArray[np.int64] = np.append(numbers, -1)[rows]
        return found

    def _find(self, ids: list[str]) -> NDArray[np.int64]:
        known = [row for row, name in enumerate(ids) if _ID.fullmatch(name)]
        halves = np.frombuffer(bytes.fromhex("".join(ids[row] for row in known)), ">u8").reshape(-1, 2)
        high, low = (halves[:, i].astype(np.uint64) for i in (0, 1))
        place = np.searchsorted(self.high, high)
        numbers = np.full(len(known), -1, np.int64)
        for step in range(self.most_alike):
            at = np.minimum(place + step, len(self.high) - 1)
            hit = (self.high[at] == high) & (self.low[at] == low)
            numbers[hit] = self.numbers[at[hit]]
        found = np.full(len(ids), -1, np.int64)
        found[known] = numbers
        return found
