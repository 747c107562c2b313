"""Normal noise that is a pure function of its purpose, seed and position: no global state, no order of calls.

A counter-based generator (Philox) is keyed by the hash of the noise's full address. Any sample can therefore be
remade alone, on any machine, and two samples never share noise. Torch's CPU generator keeps 32 bits of a seed,
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
    """Draw independent N(0, 1) values, float32, of the given shape.

    Args:
        purpose: "train" or "eval"; evaluation never repeats training noise at the same seed.
        stage: the stage of an online run.
        seed: the data set's seed.
        prompt_id: the prompt.
        image_index: the image of the prompt.
        stream: the use within one image: "initial" for x_T, "steps" for the noise of the denoising steps.
        shape: the shape of the result. A longer first axis of the same stream starts with the same values.
    """
    address = [purpose, int(stage), int(seed), prompt_id, int(image_index), stream]
    return generator(*address).standard_normal(shape, dtype=np.float32)


def generator(*address: object) -> np.random.Generator:
    """Return the random generator of an address of plain JSON values. Different addresses give different generators."""
    digest = hashlib.sha256(canonical_json(list(address)).encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
