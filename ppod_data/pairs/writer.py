"""Rows of a table of pairs, written while pairs are found: memory holds some of them, or those of one prompt.

Legend: P pairs of a prompt.
"""

from collections.abc import Iterable, Iterator
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
    """Numbers in a scratch file, 8 bytes each, for figures over more of them than memory should hold."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, margins: NDArray[np.float64]) -> None:
        """Append some numbers."""
        self._file.write(margins.tobytes())

    def median(self) -> float:
        """Return `numpy.median` of all numbers, which sorts the file in part; 0 without any."""
        values = self._mapped()
        return float(np.median(values, overwrite_input=True)) if len(values) else 0.0

    def below(self, limit: float) -> int:
        """Count the numbers less than `limit`."""
        return int((self._mapped() < limit).sum())

    def _mapped(self) -> NDArray[np.float64]:
        self._file.flush()
        if not self._file.seek(0, 2):
            return np.empty(0)
        return np.memmap(self._file, np.float64, "r+")


def pair_table(
    images: Any,
    chosen: NDArray[Any],
    rejected: NDArray[Any],
    *,
    prompt_ids: Any,
    label: NDArray[np.float64],
    source: str,
    margin: NDArray[np.float64] | None = None,
    votes: Any = None,
) -> Any:
    """Return rows of a table of pairs [P].

    Args:
        images: sample ids, an Arrow array.
        chosen: rows of `images` [P], and `rejected` too.
        prompt_ids: of the pairs [P], an Arrow array.
        label: probability that chosen is preferred [P].
        margin: [P]; None if there is none.
        votes: [P], an Arrow array; None if they are unknown.
    """
    count = len(chosen)
    columns = {
        "pair_id": pair_ids(images, chosen, rejected, source),
        "prompt_id": prompt_ids,
        "chosen_id": images.take(pa.array(chosen)),
        "rejected_id": images.take(pa.array(rejected)),
        "label": label.astype(np.float32),
        "margin": pa.nulls(count, pa.float64()) if margin is None else margin,
        "source": pa.repeat(source, count),
        "votes": pa.nulls(count, pa.int32()) if votes is None else votes,
    }
    return pa.table(columns, schema=PAIRS)


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
    return pair_table(
        images,
        chosen,
        rejected,
        prompt_ids=prompts.take(pa.array(np.repeat(np.arange(len(block)), counts))),
        label=labels,
        margin=margins,
        source=source,
    )
