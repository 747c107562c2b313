"""From pairs and trajectories on disk to the tensors of one training step.

Shapes: U trajectories, P pairs among them, R stored latents a trajectory, T trained steps, C H W latent.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppod_data.dataset import Dataset, latent_rows
from ppod_data.diffusion.schedule import build_schedule
from ppod_data.errors import ConfigError
from ppod_data.files import canonical_json
from ppod_data.log_probs import policy_of
from ppod_data.noise import generator
from ppod_data.spec import GenerationSpec

# What data sets that are trained on together must share: the sampler is part of the policy.
_SHARED = (
    "scheduler",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "guidance_mode",
    "ddim_eta",
    "compute_dtype",
    "latent_dtype",
    "store_steps",
    "latent_shape",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class PreferenceData:
    """The pairs of one or more data sets and where their trajectories are. Latents stay on disk."""

    datasets: tuple[Dataset, ...]
    spec: GenerationSpec
    """Of the first data set; what `_SHARED` names holds for all."""
    prompts: tuple[str, ...]
    rows: list[dict[str, object]]
    """Where each trajectory of a pair is: `Dataset.trajectory_index` rows and the number of their data set."""
    prompt_index: np.ndarray
    """int64, for each trajectory its row of `prompts`."""
    reference_log_probs: np.ndarray
    """log π_ref, fp64, trajectories × num_inference_steps; NaN where a step has no density."""
    chosen: np.ndarray
    """int64 [pairs], rows of `rows`."""
    rejected: np.ndarray
    labels: np.ndarray
    """float32 [pairs], the probability that chosen is preferred."""
    steps: tuple[int, ...]
    """The chain steps that can be trained on: stored and stochastic."""
    fingerprint: str
    """sha256 over the pairs, their labels and the reference's log-probabilities, in order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PreferenceBatch:
    """One training step's trajectories and the pairs among them, on the device."""

    latents: torch.Tensor
    """[R, U, C, H, W], fp32 values of the storage dtype."""
    current: torch.Tensor
    """int64 [T]: the row of `latents` that holds x_t of each trained step; the next row holds x_{t-1}."""
    following: torch.Tensor
    """int64 [T]: the row of x_{t-1}."""
    step_index: torch.Tensor
    """int64 [T]: which steps of the chain are trained on."""
    prompt_index: torch.Tensor
    """int64 [U]."""
    reference_log_probs: torch.Tensor
    """fp64 [U, T]."""
    chosen: torch.Tensor
    """int64 [P], trajectories of this batch."""
    rejected: torch.Tensor
    labels: torch.Tensor
    """fp64 [P]."""


def open_preferences(
    roots: Sequence[Path], pairs: str, *, policy_fingerprint: str, reference_log_probs: str | None = None
) -> PreferenceData:
    """Join the pair table `pairs` of every data set with its trajectories' places and log-probabilities.

    Args:
        policy_fingerprint: of the reference.
        reference_log_probs: the name under log_probs/ of the reference's log-probabilities on these data sets;
            None: it made the data, and the recorded ones are its own.

    Raises:
        ConfigError: no pairs, a data set of another model or sampler, a pair that refers to a missing sample.
    """
    datasets = tuple(Dataset.open(root) for root in roots)
    spec = datasets[0].spec
    for dataset in datasets:
        _check_alike(spec, dataset)
    prompts = tuple(dict.fromkeys(prompt for dataset in datasets for prompt in dataset.spec.prompts))
    places = {prompt: i for i, prompt in enumerate(prompts)}

    rows: list[dict[str, object]] = []
    chosen: list[int] = []
    rejected: list[int] = []
    labels: list[float] = []
    for number, dataset in enumerate(datasets):
        table = dataset.pairs(pairs)
        ids = list(dict.fromkeys(table["chosen_id"].to_pylist() + table["rejected_id"].to_pylist()))
        if not ids:
            raise ConfigError(f"pairs {pairs} of {dataset.root} is empty: nothing to train on")
        place = {sample_id: len(rows) + i for i, sample_id in enumerate(ids)}
        index = dataset.trajectory_index(ids).to_pylist()
        reference = _reference_log_probs(dataset, index, policy_fingerprint, reference_log_probs)
        rows += [row | {"dataset": number, "log_probs": reference[row["sample_id"]]} for row in index]
        chosen += [place[sample_id] for sample_id in table["chosen_id"].to_pylist()]
        rejected += [place[sample_id] for sample_id in table["rejected_id"].to_pylist()]
        labels += table["label"].to_pylist()

    by_id = {
        prompt_id: places[prompt]
        for d in datasets
        for prompt_id, prompt in zip(d.spec.prompt_ids, d.spec.prompts, strict=True)
    }
    log_probs = np.array([row["log_probs"] for row in rows], dtype=np.float64)
    stochastic = build_schedule(spec.scheduler, spec.num_inference_steps, spec.ddim_eta).stochastic
    steps = tuple(step for step in spec.stored_steps() if stochastic[step])
    if not steps:
        raise ConfigError(f"no stored step of {roots[0]} has noise: store more steps (--store-steps)")
    return PreferenceData(
        datasets=datasets,
        spec=spec,
        prompts=prompts,
        rows=rows,
        prompt_index=np.array([by_id[str(row["prompt_id"])] for row in rows]),
        reference_log_probs=log_probs,
        chosen=np.array(chosen),
        rejected=np.array(rejected),
        labels=np.array(labels, dtype=np.float32),
        steps=steps,
        fingerprint=_fingerprint(rows, chosen, rejected, labels),
    )


def pairs_of_step(data: PreferenceData, *, step: int, pairs_per_step: int, seed: int) -> np.ndarray:
    """The pairs of a training step: a run of an endless sequence of permutations, one an epoch.

    A pure function of (data, seed, step), so that a resumed run needs no state.
    """
    total = len(data.chosen)
    positions = np.arange(step * pairs_per_step, (step + 1) * pairs_per_step)
    order = {
        epoch: generator(seed, "epoch", int(epoch)).permutation(total) for epoch in set(positions // total)
    }
    return np.array([order[position // total][position % total] for position in positions])


def paired_prompts(data: PreferenceData) -> tuple[str, ...]:
    """The prompts that have a pair, in the data sets' order: those that a policy is judged on while it trains."""
    return tuple(data.prompts[i] for i in np.unique(data.prompt_index))


def timesteps_of_step(
    data: PreferenceData, *, step: int, timesteps_per_update: int | None, seed: int
) -> list[int]:
    """The chain steps of a training step: all, or a random subset in ascending order."""
    if timesteps_per_update is None or timesteps_per_update >= len(data.steps):
        return list(data.steps)
    subset = generator(seed, "timesteps", step).choice(len(data.steps), timesteps_per_update, replace=False)
    return [data.steps[i] for i in sorted(subset)]


def load_batch(
    data: PreferenceData, pairs: np.ndarray, steps: Sequence[int], device: str | torch.device
) -> PreferenceBatch:
    """Read the pairs' trajectories, each once and checked by its sha256, onto the device."""
    trajectories, positions = np.unique(
        np.concatenate([data.chosen[pairs], data.rejected[pairs]]), return_inverse=True
    )
    place = {row: i for i, row in enumerate(latent_rows(data.spec.stored_steps()))}
    return PreferenceBatch(
        latents=read_latents(data, trajectories).to(device),
        current=torch.tensor([place[step] for step in steps], device=device),
        following=torch.tensor([place[step + 1] for step in steps], device=device),
        step_index=torch.tensor(list(steps), device=device),
        prompt_index=torch.from_numpy(data.prompt_index[trajectories]).to(device),
        reference_log_probs=torch.from_numpy(data.reference_log_probs[trajectories][:, list(steps)]).to(
            device
        ),
        chosen=torch.from_numpy(positions[: len(pairs)]).to(device),
        rejected=torch.from_numpy(positions[len(pairs) :]).to(device),
        labels=torch.from_numpy(data.labels[pairs].astype(np.float64)).to(device),
    )


def read_latents(data: PreferenceData, trajectories: np.ndarray) -> torch.Tensor:
    """The stored latents of some trajectories, fp32 [R, U, C, H, W]."""
    latents = []
    for index in trajectories:
        row = data.rows[index]
        latents.append(data.datasets[int(str(row["dataset"]))].read_trajectory(row).latents.float())
    return torch.stack(latents, dim=1)


def _check_alike(spec: GenerationSpec, dataset: Dataset) -> None:
    for name in _SHARED:
        if getattr(dataset.spec, name) != getattr(spec, name):
            raise ConfigError(
                f"{dataset.root} was made with {name} {getattr(dataset.spec, name)!r}, the first data set with "
                f"{getattr(spec, name)!r}: train on data sets of one sampler"
            )
    if missing := dataset.missing_shards():
        raise ConfigError(
            f"{dataset.root} lacks {len(missing)} of {dataset.spec.num_shards} shards: "
            "run its ppod-gen again to finish it"
        )


def _reference_log_probs(
    dataset: Dataset, index: Sequence[dict[str, Any]], policy_fingerprint: str, name: str | None
) -> dict[str, list[float | None]]:
    """sample_id -> log π_ref, either as recorded or from log_probs/<name>; of the reference in both cases."""
    if name is None:
        made_by, whose = dataset.spec.policy_fingerprint, f"was made by another model ({dataset.spec.model})"
        values = {row["sample_id"]: row["log_probs"] for row in index}
    else:
        table = dataset.log_probs(name)
        made_by = policy_of(table)
        whose = f"has under log_probs/{name} those of another model"
        values = dict(zip(table["sample_id"].to_pylist(), table["log_probs"].to_pylist(), strict=True))
    if made_by != policy_fingerprint:
        raise ConfigError(
            f"{dataset.root} {whose}, fingerprint {made_by[:16]}…, than the one to train "
            f"({policy_fingerprint[:16]}…): give the model that made the data, or compute the reference's "
            "log-probabilities with `ppod-data log-probs` and name them"
        )
    return values


def _fingerprint(rows: Sequence[dict[str, object]], *columns: Sequence[object]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json([row["sample_id"], row["traj_sha256"], row["log_probs"]]).encode())
    digest.update(canonical_json([list(column) for column in columns]).encode())
    return digest.hexdigest()
