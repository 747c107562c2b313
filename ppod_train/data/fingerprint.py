"""Fingerprint of training data: which trajectories, targets and reference log-probabilities, in which order."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppod_data.support.canonical_json import canonical_json
from ppod_train.data.pairs import Pairs

_BLOCK = 1024
"""Number of rows converted to Python objects at a time."""


def fingerprint_of(
    rows: Any, reference: NDArray[np.float64], pairs: Pairs, advantages: NDArray[np.float64]
) -> str:
    """Return the sha256 of training data, as `TrainingData` holds them."""
    digest = hashlib.sha256()
    for start in range(0, len(rows), _BLOCK):
        block = rows.slice(start, _BLOCK).select(["sample_id", "traj_sha256", "log_probs"]).to_pylist()
        for row, values in zip(block, reference[start : start + _BLOCK].tolist(), strict=True):
            entry = [row["sample_id"], row["traj_sha256"], _or_none(values), row["log_probs"]]
            digest.update(canonical_json(entry).encode())
    for piece in _json_pieces((pairs.chosen, pairs.rejected, pairs.labels, pairs.margins)):
        digest.update(piece.encode())
    digest.update(np.ascontiguousarray(advantages, dtype="<f8").tobytes())
    return digest.hexdigest()


def _json_pieces(columns: Sequence[NDArray[Any]]) -> Iterator[str]:
    """Yield the canonical JSON of a list of lists of numbers in pieces, with NaN as null."""
    for number, values in enumerate(columns):
        yield ",[" if number else "[["
        for start in range(0, len(values), _BLOCK):
            text = canonical_json(_or_none(values[start : start + _BLOCK].tolist()))
            yield ("," if start else "") + text[1:-1]
        yield "]"
    yield "]"


def _or_none(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]
