"""Trajectories of several data sets with their pairs or rewards, without repeated samples.

Shapes: M trajectories, T steps of the chain.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.same_samples import check_named_once, earlier_rows, sample_keys
from ppod_data.errors import ConfigError
from ppod_train.data.pairs import Pairs, no_pairs, read_pairs
from ppod_train.data.reference import reference_log_probs_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined:
    """Concatenated rows of all data sets."""

    rows: Any
    """Arrow table of `Dataset.trajectory_index` [M] with a column `dataset`, the index of the data set."""
    reference_log_probs: NDArray[np.float64]
    """[M, T]"""
    pairs: Pairs
    rewards: list[float]
    """[M]; empty for pairs."""
    num_repeated: int
    """Number of trajectories left out because an earlier data set has the same sample."""
    num_repeated_pairs: int
    """Number of pairs left out because an earlier data set has a pair of the same samples."""


def join(
    datasets: Sequence[Dataset],
    *,
    pairs_name: str | None,
    scores_name: str | None,
    policy_fingerprint: str,
    reference_name: str | None,
    steps: Sequence[int],
) -> Joined:
    """Read the pair table, or the score table, of every data set with the index rows of its trajectories.

    Args:
        datasets: data sets made by the same sampler.
        pairs_name: the table of pairs; None for scores.
        scores_name: the table of scores; None for pairs.
        policy_fingerprint: fingerprint of the reference.
        reference_name: the table of the reference's log-probabilities, as in `DataSource`.
        steps: the trained steps, which the table must have.

    Raises:
        ConfigError: an empty table, a missing sample, or the same data set twice.
    """
    check_named_once(datasets)
    tables: list[Any] = []
    keys: list[tuple[Any, Any]] = []
    reference: list[NDArray[np.float64]] = []
    pairs, rewards = no_pairs(), list[float]()
    num_repeated = num_repeated_pairs = 0
    for number, dataset in enumerate(datasets):
        ids, own_pairs, scores = _table_of(dataset, pairs_name, scores_name)
        index = dataset.trajectory_index(ids)
        row_numbers, new = _joined_rows(dataset, index, keys, several=len(datasets) > 1)
        unpaired = own_pairs.of_rows(row_numbers).without(pairs) if number else own_pairs
        num_repeated += int((~new).sum())
        num_repeated_pairs += len(own_pairs.chosen) - len(unpaired.chosen)
        pairs = pairs.with_others(unpaired)
        rewards += [score for score, is_new in zip(scores, new.tolist(), strict=False) if is_new]
        index = index.filter(pa.array(new))
        reference.append(reference_log_probs_of(dataset, index, policy_fingerprint, reference_name, steps))
        tables.append(index.append_column("dataset", pa.array(np.full(len(index), number, np.int32))))
    return Joined(
        # One chunk, because reading a row of a chunked table searches every chunk.
        rows=pa.concat_tables(tables).combine_chunks(),
        reference_log_probs=np.concatenate(reference),
        pairs=pairs,
        rewards=rewards,
        num_repeated=num_repeated,
        num_repeated_pairs=num_repeated_pairs,
    )


def _table_of(
    dataset: Dataset, pairs_name: str | None, scores_name: str | None
) -> tuple[list[str], Pairs, list[float]]:
    """Return the sample ids that a table names, its pairs (indices into the ids) and its scores."""
    if pairs_name is not None:
        ids, pairs = read_pairs(dataset, pairs_name)
        table, scores = f"pairs/{pairs_name}", list[float]()
    else:
        assert scores_name is not None
        ids, scores = _rated(dataset, scores_name)
        table, pairs = f"scores/{scores_name}", no_pairs()
    if not ids:
        raise ConfigError(f"{table} of {dataset.root} is empty: nothing to train on")
    return ids, pairs, scores


def _joined_rows(
    dataset: Dataset, index: Any, keys: list[tuple[Any, Any]], *, several: bool
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the joined row of every trajectory and a mask of new trajectories; append their keys to `keys`."""
    first = sum(len(origin) for origin, _ in keys)
    if not several:
        return np.arange(len(index)), np.ones(len(index), np.bool_)
    own = sample_keys(dataset, index)
    earlier = [pa.concat_arrays([key[i] for key in keys] or [own[i][:0]]) for i in (0, 1)]
    earlier_row = earlier_rows(own, (earlier[0], earlier[1]))
    new = earlier_row < 0
    keys.append((own[0].filter(pa.array(new)), own[1].filter(pa.array(new))))
    return np.where(new, first + np.cumsum(new) - 1, earlier_row), new


def _rated(dataset: Dataset, name: str) -> tuple[list[str], list[float]]:
    """Return the samples that have a finite score, and their scores."""
    table = dataset.scores(name)
    known = [
        (sample_id, score)
        for sample_id, score in zip(table["sample_id"].to_pylist(), table["score"].to_pylist(), strict=True)
        if score is not None and math.isfinite(score)
    ]
    return [sample_id for sample_id, _ in known], [score for _, score in known]
