"""The trajectories of several data sets with their pairs or rewards, each sample once.

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
    """The rows of all data sets, one below the other."""

    rows: Any
    """The Arrow table of `Dataset.trajectory_index` [M], and `dataset`, the number of theirs."""
    reference_log_probs: NDArray[np.float64]
    """[M, T]"""
    pairs: Pairs
    rewards: list[float]
    """[M], empty for pairs."""
    num_repeated: int
    """Trajectories that were left out, since an earlier data set has the same sample."""
    num_repeated_pairs: int
    """Pairs that were left out, since an earlier data set has a pair of the same samples."""


def join(
    datasets: Sequence[Dataset],
    *,
    pairs_name: str | None,
    scores_name: str | None,
    policy_fingerprint: str,
    reference_name: str | None,
) -> Joined:
    """Read the table of pairs, or that of scores, of every data set with its trajectories' places.

    Args:
        datasets: of one sampler.
        pairs_name: the table of pairs; None for scores.
        scores_name: the table of scores; None for pairs.
        policy_fingerprint: of the reference.
        reference_name: the table of the reference's log-probabilities, as in `DataSource`.

    Raises:
        ConfigError: an empty table, a sample that is not there, or the same data set twice.
    """
    check_named_once(datasets)
    tables: list[Any] = []
    keys: list[tuple[Any, Any]] = []
    reference: list[NDArray[np.float64]] = []
    pairs, rewards = no_pairs(), list[float]()
    num_repeated = num_repeated_pairs = 0
    for number, dataset in enumerate(datasets):
        ids, found, scores = _table_of(dataset, pairs_name, scores_name)
        index = dataset.trajectory_index(ids)
        places, new = _places(dataset, index, keys, several=len(datasets) > 1)
        unpaired = found.of_rows(places).without(pairs) if number else found
        num_repeated += int((~new).sum())
        num_repeated_pairs += len(found.chosen) - len(unpaired.chosen)
        pairs = pairs.with_others(unpaired)
        rewards += [score for score, is_new in zip(scores, new.tolist(), strict=False) if is_new]
        index = index.filter(pa.array(new))
        reference.append(reference_log_probs_of(dataset, index, policy_fingerprint, reference_name))
        tables.append(index.append_column("dataset", pa.array(np.full(len(index), number, np.int32))))
    return Joined(
        rows=pa.concat_tables(tables).combine_chunks(),  # a row of many pieces would be sought in all of them
        reference_log_probs=np.concatenate(reference),
        pairs=pairs,
        rewards=rewards,
        num_repeated=num_repeated,
        num_repeated_pairs=num_repeated_pairs,
    )


def _table_of(
    dataset: Dataset, pairs_name: str | None, scores_name: str | None
) -> tuple[list[str], Pairs, list[float]]:
    """Return the sample ids that a table names, its pairs, numbered from 0, and its scores."""
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


def _places(
    dataset: Dataset, index: Any, keys: list[tuple[Any, Any]], *, several: bool
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the row of every trajectory among those of all data sets, and whether it is new; adds its keys."""
    first = sum(len(origin) for origin, _ in keys)
    if not several:
        return np.arange(len(index)), np.ones(len(index), np.bool_)
    own = sample_keys(dataset, index)
    earlier = [pa.concat_arrays([key[i] for key in keys] or [own[i][:0]]) for i in (0, 1)]
    found = earlier_rows(own, (earlier[0], earlier[1]))
    new = found < 0
    keys.append((own[0].filter(pa.array(new)), own[1].filter(pa.array(new))))
    return np.where(new, first + np.cumsum(new) - 1, found), new


def _rated(dataset: Dataset, name: str) -> tuple[list[str], list[float]]:
    """The samples that have a score, and their scores."""
    table = dataset.scores(name)
    known = [
        (sample_id, score)
        for sample_id, score in zip(table["sample_id"].to_pylist(), table["score"].to_pylist(), strict=True)
        if score is not None and math.isfinite(score)
    ]
    return [sample_id for sample_id, _ in known], [score for _, score in known]
