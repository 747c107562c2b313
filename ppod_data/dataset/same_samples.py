"""Detection of samples shared by several data sets: the same noise, prompt and policy give the same image.

count_repeats([first.spec, second.spec])  # [0, 128]: 128 samples of the second are also in the first
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.format.spec import GenerationSpec
from ppod_data.support.canonical_json import canonical_json


def check_named_once(datasets: Sequence[Dataset]) -> None:
    """Raise `ConfigError` if two folders hold the same data set."""
    seen: dict[str, Dataset] = {}
    for dataset in datasets:
        other = seen.setdefault(dataset.spec.fingerprint, dataset)
        if other is not dataset:
            raise ConfigError(
                f"{dataset.root} is the same data set as {other.root}, with the same {dataset.spec.num_samples:,} "
                "samples: name it once"
            )


def count_repeats(specs: Sequence[GenerationSpec]) -> list[int]:
    """Return, for each data set, how many of its samples are also in an earlier one."""
    most: dict[tuple[str, str], int] = {}
    given: set[tuple[str, str]] = set()
    counts = []
    for spec in specs:
        count, group = 0, _noise_of(spec)
        for prompt, prompt_id in enumerate(spec.prompt_ids):
            if spec.is_forward:
                images = {(prompt_id, image) for image in spec.images[prompt]}
                count += len(images & given)
                given |= images
            else:
                earlier = most.get((group, prompt_id), 0)
                count += min(earlier, spec.num_images_per_prompt)
                most[group, prompt_id] = max(earlier, spec.num_images_per_prompt)
        counts.append(count)
    return counts


def sample_keys(dataset: Dataset, index: Any) -> tuple[Any, Any]:
    """Return two Arrow columns of texts for the rows of `Dataset.trajectory_index`.

    Two samples are the same if their first texts agree (same noise or image) or their second (same latents of
    the same prompt).
    """
    spec = dataset.spec
    numbers = dataset.numbers.find(index["sample_id"]).tolist()
    places = [spec.place(number) for number in numbers]
    if spec.is_forward:
        origin = [f"image {spec.images[prompt][k]}" for prompt, k in places]
    else:
        group = _noise_of(spec)
        origin = [f"{group} {k}" for _, k in places]
    prompt_ids = pa.array([spec.prompt_ids[prompt] for prompt, _ in places], pa.string())
    latents = index["traj_sha256"].combine_chunks()
    return (
        pc.binary_join_element_wise(prompt_ids, pa.array(origin, pa.string()), " "),
        pc.binary_join_element_wise(prompt_ids, latents, " "),
    )


def earlier_rows(keys: tuple[Any, Any], earlier: tuple[Any, Any]) -> NDArray[np.int64]:
    """Return, for each row of `keys`, the row of `earlier` that is the same sample, or -1."""
    origin, latents = (pc.index_in(new, value_set=old) for new, old in zip(keys, earlier, strict=True))
    rows: NDArray[np.int64] = pc.fill_null(pc.coalesce(origin, latents), -1).to_numpy().astype(np.int64)
    return rows


def _noise_of(spec: GenerationSpec) -> str:
    """Return a hash of the fields that decide the noise and the policy of a prompt's k-th image."""
    names = ("policy_fingerprint", "purpose", "stage", "seed", "initial_noise")
    return hashlib.sha256(canonical_json([getattr(spec, name) for name in names]).encode()).hexdigest()
