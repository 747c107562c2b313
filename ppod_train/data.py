"""What a training run is trained on: trajectories on disk, their pairs or rewards, and three policies' identities.

Latents stay on disk; the numbers beside them (log-probabilities, rewards, labels) are held in memory.

Shapes: M trajectories, T steps of the chain.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ppod_data.dataset import Dataset, latent_rows
from ppod_data.diffusion.schedule import build_schedule
from ppod_data.errors import ConfigError, NothingToLearnError
from ppod_data.files import DataPath, canonical_json
from ppod_data.merge import check_alike, expand
from ppod_data.reading import Reader
from ppod_data.spec import GenerationSpec
from ppod_train.advantages import Rated
from ppod_train.objectives import Objective
from ppod_train.reference import reference_log_probs_of


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where the data of a run are: the arguments of `open_training_data` that a user gives."""

    roots: Sequence[DataPath]
    """Folders of data sets, and files of `ppod_data.merge`."""
    pairs: str
    """Table of pairs, a name under pairs/; read by an objective of pairs."""
    scores: str
    """Table of scores, a name under scores/; read by an objective of single trajectories."""
    reference_log_probs: str | None = None
    """A name under log_probs/ of the reference's log-probabilities; None: the recorded ones where the reference
    made the data, otherwise the table under log_probs/ that is the reference's."""

    def target_table(self, objective: Objective) -> str:
        """The table that the objective reads, as a path in the data set."""
        return f"pairs/{self.pairs}" if objective.on_pairs else f"scores/{self.scores}"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """The trajectories of one or more data sets and what they are worth."""

    datasets: tuple[Dataset, ...]
    spec: GenerationSpec
    """Of the first data set; what `ppod_data.merge.check_alike` compares holds for all."""
    prompts: tuple[str, ...]
    rows: list[dict[str, object]]
    """Where each trajectory is: `Dataset.trajectory_index` rows and the number of their data set."""
    prompt_index: NDArray[np.int64]
    """[M], for each trajectory its row of `prompts`."""
    reference_log_probs: NDArray[np.float64]
    """log π_ref, [M, T]; NaN where a step has no density."""
    behaviour_log_probs: NDArray[np.float64]
    """log π_stage of the policy that made the data, as recorded, [M, T]; NaN where a step has no density."""
    advantages: NDArray[np.float64]
    """[M, T]; zeros for pairs."""
    chosen: NDArray[np.int64]
    """[pairs], rows of `rows`; empty without pairs."""
    rejected: NDArray[np.int64]
    labels: NDArray[np.float32]
    """[pairs], the probability that chosen is preferred."""
    margins: NDArray[np.float64]
    """[pairs], r(chosen) − r(rejected); NaN where people judged."""
    units: NDArray[np.int64]
    """What an optimizer step draws from: numbers of pairs, or rows of trajectories that have a weight."""
    steps: tuple[int, ...]
    """The chain steps that can be trained on: stored and stochastic."""
    reader: Reader
    """Of the trajectories by their row."""
    fingerprint: str
    """sha256 over trajectories, targets and the reference's log-probabilities, in order."""

    @property
    def on_pairs(self) -> bool:
        return len(self.chosen) > 0

    @property
    def anchors(self) -> NDArray[np.float64]:
        """log π_stage − log π_ref, [M, T]; exactly 0 where the reference made the data."""
        return self.behaviour_log_probs - self.reference_log_probs

    def outside_band(self, log_ratio_clip: float) -> float:
        """The share of trainable steps that the policy which made the data already has outside ± log_ratio_clip.

        With the clip anchored at the reference these have no gradient when training starts from that policy.
        """
        return float((np.abs(self.anchors[:, list(self.steps)]) > log_ratio_clip).mean())


def open_training_data(
    source: DataSource,
    objective: Objective,
    *,
    policy_fingerprint: str,
    temperature: float = 1.0,
    best_of: int = 8,
) -> TrainingData:
    """Join the objective's table of every data set with its trajectories' places and log-probabilities.

    Args:
        policy_fingerprint: of the reference.
        temperature, best_of: as in `ppod_train.settings.TrainSettings`.

    Raises:
        ConfigError: nothing to train on, a data set of another model or sampler, a table that refers to a missing
            sample, pairs without a reward difference where the objective needs one.
    """
    datasets, steps = _open_datasets(source, objective)
    spec = datasets[0].spec
    rows: list[dict[str, Any]] = []
    reference: list[list[float | None]] = []
    pairs = _Pairs()
    rewards: list[float] = []
    for number, dataset in enumerate(datasets):
        if objective.on_pairs:
            ids = pairs.add(dataset.pairs(source.pairs), first_row=len(rows))
        else:
            ids, found = _rated(dataset, source.scores)
            rewards += found
        if not ids:
            raise ConfigError(
                f"{source.target_table(objective)} of {dataset.root} is empty: nothing to train on"
            )
        index = dataset.trajectory_index(ids).to_pylist()
        log_probs = reference_log_probs_of(dataset, index, policy_fingerprint, source.reference_log_probs)
        reference += [log_probs[row["sample_id"]] for row in index]
        rows += [row | {"dataset": number} for row in index]
    if "margins" in objective.needs and np.isnan(pairs.margins).any():
        raise ConfigError(f"pairs {source.pairs} holds pairs without a reward difference: rank by a reward")

    reader = Reader(lambda number: (datasets[rows[number]["dataset"]], rows[number]))
    prompts = tuple(dict.fromkeys(prompt for dataset in datasets for prompt in dataset.spec.prompts))
    places = {prompt: i for i, prompt in enumerate(prompts)}
    prompt_index = np.array([places[row["prompt"]] for row in rows])
    advantages = np.zeros((len(rows), spec.num_inference_steps))
    if objective.advantages is not None:
        rated = Rated(
            rewards=np.array(rewards),
            prompt_index=prompt_index,
            num_steps=len(steps),
            read_latents=_latents_before(reader, spec, steps),
            temperature=temperature,
            best_of=best_of,
        )
        advantages[:, list(steps)] = objective.advantages(rated)
    units = np.arange(len(pairs.chosen)) if objective.on_pairs else np.flatnonzero(advantages.any(axis=1))
    if not len(units):
        raise NothingToLearnError(
            f"all rewards of {source.roots[0]} are equal within each prompt: nothing to learn"
        )
    return TrainingData(
        datasets=datasets,
        spec=spec,
        prompts=prompts,
        rows=rows,
        prompt_index=prompt_index,
        reference_log_probs=np.array(reference, dtype=np.float64),
        behaviour_log_probs=np.array([row["log_probs"] for row in rows], dtype=np.float64),
        advantages=advantages,
        chosen=np.array(pairs.chosen, dtype=np.int64),
        rejected=np.array(pairs.rejected, dtype=np.int64),
        labels=np.array(pairs.labels, dtype=np.float32),
        margins=np.array(pairs.margins, dtype=np.float64),
        units=units,
        steps=steps,
        reader=reader,
        fingerprint=_fingerprint(rows, reference, pairs, advantages),
    )


def _open_datasets(source: DataSource, objective: Objective) -> tuple[tuple[Dataset, ...], tuple[int, ...]]:
    """The data sets, which must be of one sampler, and the chain steps that can be trained on."""
    datasets = tuple(Dataset.open(root) for root in expand(source.roots))
    spec = datasets[0].spec
    for dataset in datasets:
        check_alike(spec, dataset)
        _check_complete(dataset)
    stochastic = build_schedule(spec.scheduler, spec.num_inference_steps, spec.ddim_eta).stochastic
    steps = tuple(step for step in spec.stored_steps() if stochastic[step])
    if not steps:
        raise ConfigError(f"no stored step of {source.roots[0]} has noise: store more steps (--store-steps)")
    if objective.on_final_latents and spec.num_inference_steps - 1 not in spec.stored_steps():
        raise ConfigError(
            f"{source.roots[0]} does not store the final latents: make it with --store-steps all or last:N"
        )
    return datasets, steps


def read_latents(reader: Reader, trajectories: NDArray[np.int64]) -> torch.Tensor:
    """The stored latents of some trajectories, fp32 [R, rows, C, H, W], each checked by its sha256."""
    return torch.stack([chain.latents.float() for chain in reader.read(trajectories.tolist())], dim=1)


class _Pairs:
    """The pairs of all data sets, as rows of their trajectories."""

    def __init__(self) -> None:
        self.chosen: list[int] = []
        self.rejected: list[int] = []
        self.labels: list[float] = []
        self.margins: list[float] = []

    def add(self, table: Any, *, first_row: int) -> list[str]:
        """Take the pairs of one table; returns the sample ids of its trajectories, each once, in their order."""
        chosen, rejected = table["chosen_id"].to_pylist(), table["rejected_id"].to_pylist()
        ids = list(dict.fromkeys(chosen + rejected))
        place = {sample_id: first_row + i for i, sample_id in enumerate(ids)}
        self.chosen += [place[sample_id] for sample_id in chosen]
        self.rejected += [place[sample_id] for sample_id in rejected]
        self.labels += table["label"].to_pylist()
        self.margins += [math.nan if margin is None else margin for margin in table["margin"].to_pylist()]
        return ids


def _rated(dataset: Dataset, name: str) -> tuple[list[str], list[float]]:
    """The samples that have a score, and their scores."""
    table = dataset.scores(name)
    known = [
        (sample_id, score)
        for sample_id, score in zip(table["sample_id"].to_pylist(), table["score"].to_pylist(), strict=True)
        if score is not None and math.isfinite(score)
    ]
    return [sample_id for sample_id, _ in known], [score for _, score in known]


def _latents_before(
    reader: Reader, spec: GenerationSpec, steps: Sequence[int]
) -> Callable[[NDArray[np.int64]], torch.Tensor]:
    place = {row: i for i, row in enumerate(latent_rows(spec.stored_steps()))}

    def read(trajectories: NDArray[np.int64]) -> torch.Tensor:
        return read_latents(reader, trajectories)[[place[step] for step in steps]]

    return read


def _check_complete(dataset: Dataset) -> None:
    if missing := dataset.missing_shards():
        raise ConfigError(
            f"{dataset.root} lacks {len(missing)} of {dataset.spec.num_shards} shards: "
            "run its ppod-gen again to finish it"
        )


def _fingerprint(
    rows: Sequence[dict[str, Any]],
    reference: Sequence[Sequence[float | None]],
    pairs: _Pairs,
    advantages: NDArray[np.float64],
) -> str:
    digest = hashlib.sha256()
    for row, log_probs in zip(rows, reference, strict=True):
        digest.update(
            canonical_json(
                [row["sample_id"], row["traj_sha256"], list(log_probs), list(row["log_probs"])]
            ).encode()
        )
    margins = [None if math.isnan(margin) else margin for margin in pairs.margins]
    digest.update(canonical_json([pairs.chosen, pairs.rejected, pairs.labels, margins]).encode())
    digest.update(np.ascontiguousarray(advantages, dtype="<f8").tobytes())
    return digest.hexdigest()
