"""Big data sets in seconds: real tables through our own writers, with numbers for latents and no images.

What reads images or trajectories cannot use them; ranking, cards, figures and everything that opens can.

Shapes: N samples of a shard.
"""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from ppod_data.dataset.dataset import Dataset, create
from ppod_data.format.tables import SAMPLES, SCORES, part_name, write_table
from tests.support.toy import make_spec

TIMESTEPS, STOCHASTIC, LOG_PROBS = [751, 501, 251, 1], [True, True, True, False], [-1.5, -1.4, -1.3, None]


def make_big(
    root: Path,
    *,
    num_prompts: int,
    num_images_per_prompt: int = 100,
    images_per_shard: int = 512,
    scores: tuple[str, ...] = ("r",),
) -> Dataset:
    """A data set without images and tars, with score tables of random numbers."""
    spec = make_spec(
        prompts=tuple(f"a picture of {number} cats and a dog" for number in range(num_prompts)),
        num_images_per_prompt=num_images_per_prompt,
        images_per_shard=images_per_shard,
    )
    dataset = create(root, spec)
    for shard in range(spec.num_shards):
        samples = sample_table(dataset, shard)
        write_table(root / "samples" / part_name(shard), samples, row_group_size=64)
        for number, name in enumerate(scores):
            part = _scores(samples, name, np.random.default_rng([number, shard]).normal(size=len(samples)))
            write_table(root / "scores" / name / part_name(shard), part)
    return dataset


def open_shards(root: Path, num_shards: int, real: tuple[int, ...]) -> Dataset:
    """A data set of one image a shard whose parts are empty files, but the `real` ones: for what only opens."""
    dataset = create(
        root, make_spec(prompts=("a cat",), num_images_per_prompt=num_shards, images_per_shard=1)
    )
    for folder in ("samples", "trajectories"):
        (root / folder).mkdir()
    for shard in range(num_shards):
        (root / "trajectories" / f"{shard:06d}-{'0' * 16}.tar").touch()
        (root / "samples" / part_name(shard)).touch()
    for shard in real:
        write_table(root / "samples" / part_name(shard), sample_table(dataset, shard))
    return dataset


def sample_table(dataset: Dataset, shard: int) -> pa.Table:
    """The samples part of one shard: an empty image each, and the place of a trajectory that is nowhere."""
    spec = dataset.spec
    places = [divmod(n, spec.num_images_per_prompt) for n in spec.shard_range(shard)]
    ids = spec.shard_sample_ids(shard)
    count = len(ids)
    hashes = [hashlib.sha256(one.encode()).hexdigest() for one in ids]
    return pa.table(
        {
            "sample_id": ids,
            "prompt_id": [spec.prompt_ids[prompt] for prompt, _ in places],
            "prompt": [spec.prompts[prompt] for prompt, _ in places],
            "image_index": [k for _, k in places],
            "seed": [spec.seed] * count,
            "image": [{"bytes": b"", "path": f"{one}.png"} for one in ids],
            "image_sha256": hashes,
            "image_pixels_sha256": hashes,
            "timesteps": [TIMESTEPS] * count,
            "stochastic": [STOCHASTIC] * count,
            "log_probs": [LOG_PROBS] * count,
            "step_index": [list(spec.stored_steps())] * count,
            "traj_file": [f"{shard:06d}-{'0' * 16}.tar"] * count,
            "traj_offset": [512 + 2048 * row for row in range(count)],
            "traj_nbytes": [1024] * count,
            "traj_sha256": hashes,
        },
        schema=SAMPLES,
    )


def _scores(samples: pa.Table, name: str, scores: np.ndarray) -> pa.Table:
    count = samples.num_rows
    return pa.table(
        {
            "sample_id": samples["sample_id"],
            "score": scores,
            "scorer": [name] * count,
            "revision": ["1"] * count,
            "image_pixels_sha256": samples["image_pixels_sha256"],
            "status": ["ok"] * count,
        },
        schema=SCORES,
    )
