"""Pairs as row numbers of trajectories. Tables of pairs are never held in memory as text.

Shapes: N samples of the spec, M trajectories that occur in a pair, P pairs.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.format.pair_checks import (
    PAIR_COLUMNS,
    Problem,
    PromptOf,
    pair_keys,
    pair_problems,
    repeated_pair,
)
from ppod_data.format.pair_ids import pair_key


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Pairs of one or more data sets."""

    chosen: NDArray[np.int64]
    """[P], row numbers of trajectories."""
    rejected: NDArray[np.int64]
    """[P], row numbers of trajectories."""
    labels: NDArray[np.float32]
    """[P], probability that `chosen` is preferred."""
    margins: NDArray[np.float64]
    """[P]; NaN for people's labels."""

    def with_others(self, others: "Pairs") -> "Pairs":
        """Return these pairs followed by `others`."""
        names = [field.name for field in fields(Pairs)]
        return Pairs(**{name: np.concatenate([getattr(self, name), getattr(others, name)]) for name in names})

    def of_rows(self, rows: NDArray[np.int64]) -> "Pairs":
        """Return the pairs with renumbered trajectories: `rows` [M] holds the new number of each."""
        return replace(self, chosen=rows[self.chosen], rejected=rows[self.rejected])

    def without(self, earlier: "Pairs") -> "Pairs":
        """Return the pairs whose two trajectories are not a pair of `earlier` in either order."""
        new = ~np.isin(pair_key(self.chosen, self.rejected), pair_key(earlier.chosen, earlier.rejected))
        return Pairs(**{field.name: getattr(self, field.name)[new] for field in fields(Pairs)})


def no_pairs() -> Pairs:
    """Return an empty set of pairs."""
    empty = np.empty(0, np.int64)
    return Pairs(
        chosen=empty, rejected=empty, labels=empty.astype(np.float32), margins=empty.astype(np.float64)
    )


def read_pairs(dataset: Dataset, name: str) -> tuple[list[str], Pairs]:
    """Return the sample ids of the M trajectories of a pair table, in order of first mention, and its pairs.

    In that order all chosen samples come before all rejected ones. The pairs refer to trajectories by index.

    Raises:
        ConfigError: a pair refers to a sample that is not in the data set.
        DamagedError: a pair that `ppod-data verify` reports as damaged: two prompts, the same sample twice, a label
            that is not a probability, a margin that is not a number, or a second pair of the same two samples.
    """
    prompts = PromptOf(dataset.spec, np.ones(dataset.spec.num_samples, bool), dataset.numbers)
    keys: list[NDArray[np.int64]] = []
    chosen: list[NDArray[np.int32]] = []
    rejected: list[NDArray[np.int32]] = []
    labels, margins = [np.empty(0, np.float32)], [np.empty(0)]
    for table in dataset.iter_pairs(name, PAIR_COLUMNS):
        for column, numbers in (("chosen_id", chosen), ("rejected_id", rejected)):
            sample_numbers = dataset.numbers.find(table[column])
            if (sample_numbers < 0).any():
                unknown = table[column][int(np.argmin(sample_numbers))]
                raise ConfigError(
                    f"{dataset.root}: the pairs {name} refer to sample {unknown}, which is not in this data set; "
                    "make the pairs from this data set"
                )
            numbers.append(sample_numbers.astype(np.int32))
        _raise_if_damaged(dataset, name, next(pair_problems(table, prompts), None))
        keys.append(pair_keys(table, prompts))
        labels.append(table["label"].to_numpy())
        margins.append(table["margin"].fill_null(np.nan).to_numpy())
    _raise_if_damaged(dataset, name, repeated_pair(keys, prompts))
    del keys
    both = np.concatenate([np.empty(0, np.int32), *chosen, *rejected])
    ids, rows = _rows_of(dataset, both)
    count = len(both) // 2
    return ids, Pairs(
        chosen=rows[:count],
        rejected=rows[count:],
        labels=np.concatenate(labels),
        margins=np.concatenate(margins),
    )


def _raise_if_damaged(dataset: Dataset, name: str, problem: Problem | None) -> None:
    if problem is not None:
        raise DamagedError(
            f"{dataset.root / 'pairs' / f'{name}.parquet'}: {problem[1]}; copy the table again or make another one "
            "(ppod-data verify lists every damaged pair)"
        )


def _rows_of(dataset: Dataset, samples: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the ids of the distinct samples in order of first mention, and each mention's index among them."""
    spec = dataset.spec
    first = np.full(spec.num_samples, len(samples))
    # Written backwards, so that a sample keeps the index of its first mention.
    first[samples[::-1]] = np.arange(len(samples))[::-1]
    distinct = np.argsort(first, kind="stable")[: np.count_nonzero(first < len(samples))]
    row_of = np.empty(spec.num_samples, np.int64)
    row_of[distinct] = np.arange(len(distinct))
    places = map(spec.place, distinct.tolist())
    return [spec.sample_id(spec.prompt_ids[prompt], k) for prompt, k in places], row_of[samples]
