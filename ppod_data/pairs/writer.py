"""A table of pairs that is written while its pairs are found: memory holds some of them, or those of one prompt.

Legend: P pairs of a prompt.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppod_data.format.pair_ids import pair_ids
from ppod_data.format.tables import PAIRS
from ppod_data.support.prefetch import prefetch

_ROW_GROUP = 10_000
_BLOCK = 50_000
"""Pairs, or images, that become rows at once; a prompt with more does as a whole."""
_DIGIT = 16
"""Bits of a number that one pass over the margins finds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptPairs:
    """The pairs of one prompt."""

    prompt_id: str
    ids: list[str]
    """Of its images."""
    chosen: NDArray[np.int64]
    """Rows of `ids` [P], and `rejected` too."""
    rejected: NDArray[np.int64]
    margins: NDArray[np.float64]
    """[P], positive."""


class Margins:
    """Positive numbers in a scratch file, 8 bytes each: their median is known when all are there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, margins: NDArray[np.float64]) -> None:
        """Some more."""
        self._file.write(margins.tobytes())

    def median(self) -> float:
        """Exactly `numpy.median` of all; 0 without any."""
        count = self._file.seek(0, 2) // 8
        if not count:
            return 0.0
        return float(np.mean([_kth_smallest(self._blocks, k) for k in {(count - 1) // 2, count // 2}]))

    def below(self, limit: float) -> int:
        """How many are less than `limit`."""
        return sum(int((block < limit).sum()) for block in self._blocks())

    def _blocks(self) -> Iterator[NDArray[np.float64]]:
        self._file.seek(0)
        while data := self._file.read(8 * _BLOCK):
            yield np.frombuffer(data)


def write_rows(
    writer: Any, prompts: Iterable[PromptPairs], source: str, label_temperature: float | None
) -> None:
    """Write the pairs' rows by a `table_writer`: prompts are found by another thread while rows are compressed.

    The bytes do not depend on the blocks.
    """
    rest = PAIRS.empty_table()
    for piece in prefetch(_as_table(block, source, label_temperature) for block in _blocks(prompts)):
        table = pa.concat_tables([rest, piece])
        whole = len(table) // _ROW_GROUP * _ROW_GROUP
        if whole:
            writer.write_table(table.slice(0, whole), row_group_size=_ROW_GROUP)
        rest = table.slice(whole)
    if len(rest):
        writer.write_table(rest)


def _blocks(prompts: Iterable[PromptPairs]) -> Iterator[list[PromptPairs]]:
    block: list[PromptPairs] = []
    num_pairs = num_images = 0
    for one in prompts:
        block.append(one)
        num_pairs, num_images = num_pairs + len(one.margins), num_images + len(one.ids)
        if max(num_pairs, num_images) >= _BLOCK:
            yield block
            block, num_pairs, num_images = [], 0, 0
    if block:
        yield block


def _as_table(block: list[PromptPairs], source: str, label_temperature: float | None) -> Any:
    counts = [len(one.margins) for one in block]
    starts = np.cumsum([0, *(len(one.ids) for one in block)])[:-1]
    images = pa.array([name for one in block for name in one.ids], pa.string())
    prompts = pa.array([one.prompt_id for one in block], pa.string())
    chosen = np.concatenate([one.chosen + start for one, start in zip(block, starts, strict=True)])
    rejected = np.concatenate([one.rejected + start for one, start in zip(block, starts, strict=True)])
    margins = np.concatenate([one.margins for one in block])
    labels = np.ones(len(margins))
    if label_temperature is not None:
        labels = 1 / (1 + np.exp(-margins / label_temperature))
    columns = {
        "pair_id": pair_ids(images, chosen, rejected, source),
        "prompt_id": prompts.take(pa.array(np.repeat(np.arange(len(block)), counts))),
        "chosen_id": images.take(pa.array(chosen)),
        "rejected_id": images.take(pa.array(rejected)),
        "label": labels.astype(np.float32),
        "margin": margins,
        "source": pa.repeat(source, len(margins)),
        "votes": pa.nulls(len(margins), pa.int32()),
    }
    return pa.table(columns, schema=PAIRS)


def _kth_smallest(values: Callable[[], Iterator[NDArray[np.float64]]], k: int) -> float:
    """The k-th (from 0) of the positive numbers that `values` gives at each call, in the same order or another.

    Positive floats are ordered as their bits: each pass finds the next bits of the answer by counting.
    """
    found = 0
    for shift in range(64 - _DIGIT, -1, -_DIGIT):
        counts = np.zeros(1 << _DIGIT, np.int64)
        for block in values():
            bits = block.view(np.uint64) >> np.uint64(shift)
            alike = bits[bits >> np.uint64(_DIGIT) == found] if shift + _DIGIT < 64 else bits
            digits = (alike & np.uint64((1 << _DIGIT) - 1)).astype(np.int64)
            counts += np.bincount(digits, minlength=len(counts))
        before = np.cumsum(counts)
        digit = int(np.searchsorted(before, k, side="right"))
        k -= int(before[digit - 1]) if digit else 0
        found = found << _DIGIT | digit
    return float(np.uint64(found).view(np.float64))
