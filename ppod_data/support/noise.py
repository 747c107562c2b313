"""Normal noise that depends on what it is for and on nothing else: no global state, no order of calls.

A counter-based generator (Philox) is keyed by the hash of the noise's full address, so any sample can be made
again alone, on any machine, and two samples never share noise. Torch's CPU generator keeps 32 bits of a seed,
which collide at a million samples; this key has 128.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from ppod_data.support.canonical_json import canonical_json


def standard_normal(
    *,
    purpose: str,
    stage: int,
    seed: int,
    prompt_id: str,
    image_index: int,
    stream: str,
    shape: tuple[int, ...],
) -> NDArray[np.float32]:
    """Independent draws of N(0, 1), float32, of the given shape.

    `purpose` is "train" or "eval": evaluation never sees training noise at the same seed. `stream` tells
    apart the uses within one image: "initial" for x_T, "steps" for the noise of the denoising steps. A longer
    first axis of the same stream starts with the same values.
    """
    address = [purpose, int(stage), int(seed), prompt_id, int(image_index), stream]
    return generator(*address).standard_normal(shape, dtype=np.float32)


def generator(*address: object) -> np.random.Generator:
    """The random generator that belongs to an address of plain JSON values, and to no other."""
    digest = hashlib.sha256(canonical_json(list(address)).encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
