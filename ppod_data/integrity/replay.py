"""Replay stored steps with the model that made a data set, and compare log-probabilities with those recorded.

This detects what checksums cannot: another revision, scheduler or precision than the manifest says, and images
that do not belong to their trajectories.
"""

import math
from dataclasses import dataclass

import numpy as np

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.image_reader import read_images
from ppod_data.dataset.trajectory_reader import Reader
from ppod_data.diffusion.models.model import DiffusionModel, resized
from ppod_data.errors import ConfigError
from ppod_data.format.shards import committed_shards
from ppod_data.generation.log_probs import trajectory_log_probs
from ppod_data.generation.sampling import build_policy
from ppod_data.integrity.check_images import other_images
from ppod_data.support.runtime import one_thread


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Differences |replayed − recorded| of log-probabilities, in nats a latent dimension."""

    num_trajectories: int
    steps: tuple[int, ...]
    """The replayed chain steps: those stored that have a density."""
    timesteps: tuple[int, ...]
    median: tuple[float, ...]
    """One value a step."""
    largest: tuple[float, ...]
    share_exact: float
    """The share of steps whose log-probability was reproduced to the last bit."""
    other_images: tuple[str, ...] = ()
    """Samples whose image does not match the end of their trajectory (`ppod_data.integrity.check_images`)."""


def replay(dataset: Dataset, model: DiffusionModel, *, num_trajectories: int) -> Replay:
    """Replay whole batches as they were generated, spread over the data set, at least `num_trajectories` in total.

    Raises:
        ConfigError: the model is not the one that made the data set, or there is nothing to replay.
        DamagedError: a trajectory is damaged.
    """
    spec = dataset.spec
    if model.fingerprint != spec.policy_fingerprint:
        named = {"revision": spec.revision, "variant": spec.variant, "adapter": spec.adapter}
        raise ConfigError(
            f"{model.name} is not the policy that made {dataset.root}: its fingerprint is {model.fingerprint[:16]}…, "
            f"but the data set says {spec.policy_fingerprint[:16]}… ({spec.model}"
            + "".join(f", {key} {value}" for key, value in named.items() if value)
            + "): give that --model, --revision, --variant and --adapter"
        )
    groups: list[list[str]] = []
    for shard in committed_shards(dataset.root):
        ids = spec.shard_sample_ids(shard)
        for first in range(0, len(ids), spec.batch_size):
            names = [name for name in ids[first : first + spec.batch_size] if name not in dataset.excluded]
            groups += [names] if names else []
    if not groups:
        raise ConfigError(f"{dataset.root}: no trajectories to replay: generate some with ppod-gen")
    count = min(len(groups), math.ceil(num_trajectories / spec.batch_size))
    model = resized(model, spec.height, spec.width)
    policy = build_policy(spec, model)
    errors: list[list[float]] = []
    wrong: list[str] = []
    steps: list[int] = []
    timesteps: list[int] = []
    for group in np.linspace(0, len(groups) - 1, count).astype(int):
        rows = dataset.trajectory_index(groups[group]).to_pylist()
        batch = Reader.of(dataset, rows).read(range(len(rows)))
        with one_thread(model.device):
            values = trajectory_log_probs(spec, policy, batch)
        wrong += other_images(
            model, spec, batch, dict(read_images(dataset.root, dataset.spec, groups[group]))
        )
        steps = [step for step in batch[0].step_index if batch[0].stochastic[step]]
        timesteps = [batch[0].timesteps[step] for step in steps]
        for chain, replayed in zip(batch, values, strict=True):
            pairs = [(replayed[step], chain.log_probs[step]) for step in steps]
            errors.append([abs(new - old) for new, old in pairs if new is not None and old is not None])
    if not steps:
        raise ConfigError(f"{dataset.root}: no stored step has noise, so there is nothing to replay")
    difference = np.array(errors)
    return Replay(
        num_trajectories=len(errors),
        steps=tuple(steps),
        timesteps=tuple(timesteps),
        median=tuple(np.median(difference, axis=0).tolist()),
        largest=tuple(difference.max(axis=0).tolist()),
        share_exact=float((difference == 0).mean()),
        other_images=tuple(wrong),
    )
