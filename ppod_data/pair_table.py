"""A table of pairs that is written without being in memory.

How many pairs there are and their median margin stand in the table's metadata, which Parquet wants before the first
row. So selected pairs go to a scratch file first, about 20 bytes each, and to the table from there.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppod_data.ahead import ahead
from ppod_data.tables import PAIRS, table_writer

_ROW_GROUP = 10_000
_BLOCK = 50_000
"""Pairs, or images, that are held before they go to the scratch file; a prompt with more is held as a whole."""
_NAMES = pa.dictionary(pa.int32(), pa.string())
_SCRATCH = pa.schema(
    {"prompt_id": _NAMES, "chosen_id": _NAMES, "rejected_id": _NAMES, "margin": pa.float64()}
)
_DIGIT = 16
"""Bits of a number that one pass over the margins finds."""


class PairScratch:
    """Pairs as they are selected, in the file `file`; `blocks` gives them back in order, as often as asked."""

    def __init__(self, file: BinaryIO) -> None:
        self.num_pairs = 0
        self._file = file
        self._writer = pa.ipc.new_stream(file, _SCRATCH)
        self._clear()

    def add(
        self,
        prompt_id: str,
        ids: Sequence[str],
        chosen: NDArray[np.int64],
        rejected: NDArray[np.int64],
        margins: NDArray[np.float64],
    ) -> None:
        """Pairs of one prompt: `chosen` and `rejected` are rows of `ids`."""
        first = len(self._ids)
        self._prompts.append(prompt_id)
        self._counts.append(len(margins))
        self._ids += ids
        self._columns.append((chosen + first, rejected + first, margins))
        self.num_pairs += len(margins)
        if max(sum(self._counts), len(self._ids)) >= _BLOCK:
            self._flush()

    def finish(self) -> None:
        """Nothing is added any more."""
        self._flush()
        self._writer.close()

    def blocks(self) -> Iterator[Any]:
        """The pairs as record batches of dictionaries and margins."""
        self._file.seek(0)
        yield from pa.ipc.open_stream(self._file)

    def median_margin(self) -> float:
        """Exactly `numpy.median` of all margins, which are positive; 0 without any."""

        def margins() -> Iterator[NDArray[np.float64]]:
            return (block["margin"].to_numpy() for block in self.blocks())

        if not self.num_pairs:
            return 0.0
        middle = sorted({(self.num_pairs - 1) // 2, self.num_pairs // 2})
        return float(np.mean([_kth_smallest(margins, k) for k in middle]))

    def _flush(self) -> None:
        if self._counts:
            chosen, rejected, margins = (np.concatenate(parts) for parts in zip(*self._columns, strict=True))
            prompts = np.repeat(np.arange(len(self._counts), dtype=np.int32), self._counts)
            names = pa.array(self._ids, pa.string())
            columns = [
                _named(prompts, pa.array(self._prompts, pa.string())),
                _named(chosen, names),
                _named(rejected, names),
                pa.array(margins),
            ]
            self._writer.write_batch(pa.record_batch(columns, schema=_SCRATCH))
        self._clear()

    def _clear(self) -> None:
        self._prompts: list[str] = []
        self._counts: list[int] = []
        self._ids: list[str] = []
        self._columns: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []


def write_pairs(
    path: Path, scratch: PairScratch, metadata: bytes, source: str, label_temperature: float | None
) -> None:
    """Write the table to the temporary file `path`: the bytes do not depend on the scratch's blocks.

    metadata: what the table says under `ppod`.
    """
    schema = PAIRS.with_metadata({**PAIRS.metadata, b"ppod": metadata})
    with table_writer(path, schema) as writer:
        rest = schema.empty_table()
        pieces = (_as_table(block, schema, source, label_temperature) for block in scratch.blocks())
        for piece in ahead(pieces):  # hashing in Python and compressing in C++ take about as long
            table = pa.concat_tables([rest, piece])
            whole = len(table) // _ROW_GROUP * _ROW_GROUP
            if whole:
                writer.write_table(table.slice(0, whole), row_group_size=_ROW_GROUP)
            rest = table.slice(whole)
        if len(rest):
            writer.write_table(rest)


def _as_table(block: Any, schema: Any, source: str, label_temperature: float | None) -> Any:
    count, margins = block.num_rows, block["margin"]
    labels = np.ones(count)
    if label_temperature is not None:
        labels = 1 / (1 + np.exp(-margins.to_numpy() / label_temperature))
    columns = {
        "pair_id": _pair_ids(block["chosen_id"], block["rejected_id"], source),
        "prompt_id": block["prompt_id"].dictionary_decode(),
        "chosen_id": block["chosen_id"].dictionary_decode(),
        "rejected_id": block["rejected_id"].dictionary_decode(),
        "label": pa.array(labels.astype(np.float32)),
        "margin": margins,
        "source": pa.repeat(source, count),
        "votes": pa.nulls(count, pa.int32()),
    }
    return pa.table(columns, schema=schema)


def _pair_ids(chosen: Any, rejected: Any, source: str) -> Any:
    """The first 32 hex digits of the sha256 of the canonical JSON of [chosen, rejected, source] of each pair."""
    names = [encode_basestring(name) for name in chosen.dictionary.to_pylist()]
    first = [hashlib.sha256(f"[{name},".encode()) for name in names]
    second = [f"{name},{encode_basestring(source)}]".encode() for name in names]
    rows = zip(chosen.indices.to_numpy().tolist(), rejected.indices.to_numpy().tolist(), strict=True)

    def digests() -> Iterator[bytes]:
        for a, b in rows:
            digest = first[a].copy()
            digest.update(second[b])
            yield digest.digest()

    halves = np.frombuffer(b"".join(digests()), np.uint8).reshape(-1, 32)[:, :16]
    digits = halves.tobytes().hex().encode()
    ends = np.arange(len(chosen) + 1, dtype=np.int32) * 32
    return pa.Array.from_buffers(pa.string(), len(chosen), [None, pa.py_buffer(ends), pa.py_buffer(digits)])


def _named(rows: NDArray[Any], names: Any) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(rows, pa.int32()), names)


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
