"""Ids and keys of pairs. One hash an image, not a pair, so that millions of pairs are fast.

Shapes: N images, P pairs.
"""

import hashlib
import re
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppod_data.support.canonical_json import canonical_json

PAIR_ID = re.compile(r"[0-9a-f]{32}")
_HALF = 32
"""Bits of a sample number in a key."""
_BYTES = 16
"""Bytes of an id, which is half a sha256, written as two hex digits a byte."""


def pair_key(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.int64]:
    """Return a number for each pair of samples [P], the same in both directions; a and b [P] are sample numbers.

    Keys sort by the earlier sample, then by the later one.
    """
    low, high = np.minimum(a, b).astype(np.int64), np.maximum(a, b).astype(np.int64)
    keys: NDArray[np.int64] = low << _HALF | high
    return keys


def key_samples(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the earlier and the later sample number of each key of `pair_key`."""
    return keys >> _HALF, keys & ((1 << _HALF) - 1)


def pair_ids(images: Any, chosen: NDArray[Any], rejected: NDArray[Any], source: str) -> Any:
    """Return the `pair_id` of each pair as an Arrow array of strings [P].

    An id is the exclusive or of the first half of the chosen image's hash and the second half of the rejected
    image's. It differs for every two images, order and source (docs/formats.md).

    Args:
        images: sample ids, an Arrow array [N].
        chosen: rows of `images` [P].
        rejected: rows of `images` [P].
        source: the source of the pairs, part of each hash.
    """
    before, after = canonical_json(["", source]).split('""', 1)
    addresses = [f"{before}{encode_basestring(name)}{after}".encode() for name in images.to_pylist()]
    hashes = np.frombuffer(b"".join([hashlib.sha256(address).digest() for address in addresses]), np.uint64)
    halves = hashes.reshape(len(images), 2, _BYTES // 8)
    digits = (halves[chosen, 0] ^ halves[rejected, 1]).tobytes().hex().encode()
    ends = np.arange(len(chosen) + 1, dtype=np.int32) * (2 * _BYTES)
    return pa.Array.from_buffers(pa.string(), len(chosen), [None, pa.py_buffer(ends), pa.py_buffer(digits)])
