"""Training data of a run: trajectories on disk, their pairs or rewards, and log-probabilities.

Latents stay on disk. The numbers that belong to them (log-probabilities, rewards, labels) are held in memory.

Shapes: M trajectories, T steps of the chain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.merge import check_alike, expand
from ppod_data.dataset.trajectory_reader import Reader
from ppod_data.errors import ConfigError, DamagedError, NothingToLearnError
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.trajectory import latent_rows, rows_before
from ppod_data.storage.files import AnyPath, data_path
from ppod_train.data.fingerprint import fingerprint_of
from ppod_train.data.joined import join
from ppod_train.data.reference import log_prob_matrix
from ppod_train.data.scorers import check_one_scorer
from ppod_train.data.steps import chain_steps
from ppod_train.objectives import Objective
from ppod_train.objectives.advantages import Rated


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Location of a run's data.

    >>> DataSource(roots=["data", "more-data"], pairs="scenes").pairs
    'scenes'
    """

    roots: Sequence[AnyPath]
    """Folders or URLs of data sets, and files of `ppod_data.dataset.merge`."""
    pairs: str = ""
    """Table of pairs, a name under pairs/; read by objectives of pairs. `train` finds the only one if it is empty."""
    scores: str = ""
    """Table of scores, a name under scores/; read by objectives of single trajectories. As `pairs`."""
    reference_log_probs: str | None = None
    """Table of the reference's log-probabilities, a name under log_probs/. None: the recorded values if the reference
    made the data, otherwise the table under log_probs/ that the reference computed."""

    def target_table(self, objective: Objective) -> str:
        """Return the path in the data set of the table that the objective reads."""
        return f"pairs/{self.pairs}" if objective.on_pairs else f"scores/{self.scores}"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """Trajectories of one or more data sets with their training targets."""

    datasets: tuple[Dataset, ...]
    spec: GenerationSpec
    """Spec of the first data set; the fields that `ppod_data.dataset.merge.check_alike` compares are equal in all."""
    prompts: tuple[str, ...]
    rows: Any
    """Arrow table of `Dataset.trajectory_index` with a column `dataset`, the index of the data set."""
    prompt_index: NDArray[np.int64]
    """[M], for each trajectory its index in `prompts`."""
    reference_log_probs: NDArray[np.float64]
    """log π_ref, [M, T]; NaN for steps without a density."""
    behaviour_log_probs: NDArray[np.float64]
    """log π_stage of the policy that made the data, as recorded, [M, T]; NaN for steps without a density."""
    advantages: NDArray[np.float64]
    """[M, T]; zeros for pairs."""
    chosen: NDArray[np.int64]
    """[P], row numbers of `rows`; empty without pairs."""
    rejected: NDArray[np.int64]
    """[P], row numbers of `rows`; empty without pairs."""
    labels: NDArray[np.float32]
    """[P], probability that `chosen` is preferred."""
    margins: NDArray[np.float64]
    """[P], r(chosen) − r(rejected); NaN for people's labels."""
    units: NDArray[np.int64]
    """The population of an optimizer step: pair numbers, or row numbers of trajectories with a nonzero weight."""
    steps: tuple[int, ...]
    """The trainable chain steps: stored and stochastic, or any timestep for an objective that reads x_0 alone."""
    recorded_steps: tuple[int, ...]
    """The stored stochastic steps, whose log-probabilities a replay checks; `steps` for an objective of the chain."""
    reader: Reader
    """Reader of trajectories by row number."""
    fingerprint: str
    """sha256 of trajectories, targets and the reference's log-probabilities, in order."""
    num_repeated: int
    """Number of trajectories left out because an earlier data set has the same sample."""
    num_repeated_pairs: int
    """Number of pairs left out because an earlier data set has a pair of the same samples."""

    @property
    def on_pairs(self) -> bool:
        """Return True if the targets are pairs."""
        return len(self.chosen) > 0

    @property
    def anchors(self) -> NDArray[np.float64]:
        """Return log π_stage − log π_ref, [M, T]; exactly 0 if the reference made the data."""
        return self.behaviour_log_probs - self.reference_log_probs

    def made_by(self, fingerprint: str) -> NDArray[np.bool_]:
        """Return a mask [M] of the trajectories that the policy with this fingerprint sampled."""
        makers = np.array([dataset.spec.policy_fingerprint == fingerprint for dataset in self.datasets])
        mask: NDArray[np.bool_] = makers[self.rows["dataset"].to_numpy()]
        return mask

    def units_of(self, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the units whose trajectories are all among `rows`, a mask [M]."""
        if not self.on_pairs:
            return self.units[rows[self.units]]
        return self.units[rows[self.chosen] & rows[self.rejected]]

    def outside_band(self, log_ratio_clip: float, step_weights: NDArray[np.float64], *, start: str) -> float:
        """Return the share of trainable steps that start outside ± log_ratio_clip, with weights `step_weights` [T].

        A step starts outside if the policy that made the data is outside the band. With the clip anchored at the
        reference, such a step has no gradient when training starts from that policy.

        Args:
            start: fingerprint of the policy that training starts from. Only trajectories that it sampled are counted,
                or all trajectories if it sampled none.
        """
        rows = self.made_by(start)
        anchors = self.anchors[rows if rows.any() else np.ones_like(rows)]
        shifts = (anchors * step_weights)[:, list(self.steps)]
        return float((np.abs(shifts) > log_ratio_clip).mean())


def open_training_data(
    source: DataSource,
    objective: Objective,
    *,
    policy_fingerprint: str,
    temperature: float = 1.0,
    best_of: int = 8,
    trained_steps: range | None = None,
) -> TrainingData:
    """Join the objective's table of every data set with its trajectories and log-probabilities.

    Args:
        policy_fingerprint: fingerprint of the reference.
        temperature, best_of: as in `ppod_train.settings.TrainSettings`.
        trained_steps: the chain steps to train on; None for all.

    Raises:
        ConfigError: no data to train on, a data set of another model or sampler, a table that refers to a missing
            sample, or pairs without a reward difference for an objective that needs one.
        NothingToLearnError: all rewards are equal within each prompt.
    """
    datasets, steps, recorded = _open_datasets(source, objective, trained_steps)
    check_one_scorer(datasets, *source.target_table(objective).split("/", 1))
    spec = datasets[0].spec
    joined = join(
        datasets,
        pairs_name=source.pairs if objective.on_pairs else None,
        scores_name=None if objective.on_pairs else source.scores,
        policy_fingerprint=policy_fingerprint,
        reference_name=source.reference_log_probs,
        steps=recorded,
    )
    rows, pairs = joined.rows, joined.pairs
    if "margins" in objective.needs and np.isnan(pairs.margins).any():
        raise ConfigError(
            f"the pairs {source.pairs} contain pairs without a reward difference: rank by a reward"
        )

    behaviour_log_probs = log_prob_matrix(rows["log_probs"], spec.num_inference_steps, datasets[0].root)
    for values in (joined.reference_log_probs, behaviour_log_probs):
        _check_trained_steps(values[:, list(recorded)], rows, datasets)

    def row_of(number: int) -> tuple[Dataset, dict[str, Any]]:
        (row,) = rows.slice(number, 1).to_pylist()
        return datasets[row["dataset"]], row

    reader = Reader(row_of)
    prompts = tuple(dict.fromkeys(prompt for dataset in datasets for prompt in dataset.spec.prompts))
    prompt_index = _prompt_index(rows, prompts, datasets[0])
    advantages = np.zeros((len(rows), spec.num_inference_steps))
    if objective.advantages is not None:
        rated = Rated(
            rewards=np.array(joined.rewards),
            prompt_index=prompt_index,
            num_steps=len(steps),
            read_latents=_latents_before(reader, spec, recorded),
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
        reference_log_probs=joined.reference_log_probs,
        behaviour_log_probs=behaviour_log_probs,
        advantages=advantages,
        chosen=pairs.chosen,
        rejected=pairs.rejected,
        labels=pairs.labels,
        margins=pairs.margins,
        units=units,
        steps=steps,
        recorded_steps=recorded,
        reader=reader,
        fingerprint=fingerprint_of(rows, joined.reference_log_probs, pairs, advantages),
        num_repeated=joined.num_repeated,
        num_repeated_pairs=joined.num_repeated_pairs,
    )


def _open_datasets(
    source: DataSource, objective: Objective, trained_steps: range | None
) -> tuple[tuple[Dataset, ...], tuple[int, ...], tuple[int, ...]]:
    """Open the data sets, check that one sampler made them, and return them with the trained and the recorded steps."""
    datasets = tuple(Dataset.open(root) for root in expand([data_path(root) for root in source.roots]))
    spec = datasets[0].spec
    for dataset in datasets:
        check_alike(spec, dataset)
        _check_complete(dataset)
    steps, recorded = chain_steps(spec, objective, trained_steps, source.roots[0])
    return datasets, steps, recorded


def read_latents(reader: Reader, trajectories: NDArray[np.int64]) -> torch.Tensor:
    """Read the stored latents of some trajectories, fp32 [R, rows, C, H, W], and verify their sha256."""
    return torch.stack([chain.latents.float() for chain in reader.read(trajectories.tolist())], dim=1)


def _prompt_index(rows: Any, prompts: Sequence[str], dataset: Dataset) -> NDArray[np.int64]:
    positions = pc.index_in(rows["prompt"], value_set=pa.array(prompts, pa.string()))
    if positions.null_count:
        raise DamagedError(f"{dataset.root / 'samples'}: a prompt is not in the spec: run ppod-data verify")
    index: NDArray[np.int64] = positions.to_numpy().astype(np.int64)
    return index


def _latents_before(
    reader: Reader, spec: GenerationSpec, steps: Sequence[int]
) -> Callable[[NDArray[np.int64]], torch.Tensor]:
    before = rows_before(latent_rows(spec.stored_steps()), steps)

    def read(trajectories: NDArray[np.int64]) -> torch.Tensor:
        return read_latents(reader, trajectories)[before]

    return read


def _check_trained_steps(values: NDArray[np.float64], rows: Any, datasets: Sequence[Dataset]) -> None:
    """Raise DamagedError, naming the sample, if a trained step has no log-probability."""
    missing = np.isnan(values).any(axis=1)
    if missing.any():
        (row,) = rows.slice(int(np.argmax(missing)), 1).to_pylist()
        raise DamagedError(
            f"{datasets[row['dataset']].root}: sample {row['sample_id']} has no log-probability for a trained "
            "step: run ppod-data verify"
        )


def _check_complete(dataset: Dataset) -> None:
    if missing := dataset.missing_shards():
        raise ConfigError(
            f"{dataset.root} lacks {len(missing)} of {dataset.spec.num_shards} shards: "
            "run the same ppod-gen command again to finish it"
        )
