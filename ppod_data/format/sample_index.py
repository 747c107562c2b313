"""An index from sample ids to their numbers in the spec: 20 bytes a sample, a tenth of a dictionary of texts.

Sample n is in shard n // images_per_shard, so finding a sample reads no table.

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
    """An index from the ids of a spec's samples, 32 hex digits stored in two halves, to their numbers."""

    high: NDArray[np.uint64]
    """[N], the first 16 digits, ascending."""
    low: NDArray[np.uint64]
    """[N], the last 16 digits."""
    numbers: NDArray[np.int32]
    """[N], the number of the sample with this id."""
    most_alike: int
    """The most ids that share their first half: 1, except by a rare chance."""

    @classmethod
    def of(cls, spec: GenerationSpec) -> "SampleNumbers":
        """Build the index. Takes about a microsecond a sample, since every id is a hash."""
        halves = np.frombuffer(spec.sample_digests(), ">u8").reshape(-1, 2).astype(np.uint64)
        order = np.argsort(halves[:, 0], kind="stable")
        high = halves[order, 0]
        _, counts = np.unique(high, return_counts=True)
        return cls(
            high=high, low=halves[order, 1], numbers=order.astype(np.int32), most_alike=int(counts.max())
        )

    def find(self, ids: Sequence[str] | Any) -> NDArray[np.int64]:
        """Return the number of each sample, -1 for an unknown id; `ids` are texts or an Arrow array of them."""
        column = pa.array(ids, pa.string()) if isinstance(ids, Sequence) else ids
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        encoded = column.dictionary_encode()
        numbers = self._find([str(name) for name in encoded.dictionary.to_pylist()])
        rows = encoded.indices.fill_null(len(numbers)).to_numpy(zero_copy_only=False)
        matches: NDArray[np.int64] = np.append(numbers, -1)[rows]
        return matches

    def _find(self, ids: list[str]) -> NDArray[np.int64]:
        valid = [row for row, name in enumerate(ids) if _ID.fullmatch(name)]
        halves = np.frombuffer(bytes.fromhex("".join(ids[row] for row in valid)), ">u8").reshape(-1, 2)
        high, low = (halves[:, i].astype(np.uint64) for i in (0, 1))
        start = np.searchsorted(self.high, high)
        numbers = np.full(len(valid), -1, np.int64)
        for step in range(self.most_alike):
            at = np.minimum(start + step, len(self.high) - 1)
            hit = (self.high[at] == high) & (self.low[at] == low)
            numbers[hit] = self.numbers[at[hit]]
        matches = np.full(len(ids), -1, np.int64)
        matches[valid] = numbers
        return matches
