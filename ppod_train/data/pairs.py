"""Pairs of a data set as numbers: rows of the trajectories that they are of. No table of pairs is in memory as text.

Shapes: N samples of the spec, M trajectories that are in a pair, P pairs.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """The pairs of one or more data sets."""

    chosen: NDArray[np.int64]
    """[P], rows of trajectories, and `rejected` too."""
    rejected: NDArray[np.int64]
    labels: NDArray[np.float32]
    """[P], the probability that chosen is preferred."""
    margins: NDArray[np.float64]
    """[P], NaN where people judged."""

    def with_others(self, others: "Pairs") -> "Pairs":
        """These, and then the others."""
        names = [field.name for field in fields(Pairs)]
        return Pairs(**{name: np.concatenate([getattr(self, name), getattr(others, name)]) for name in names})

    def of_rows(self, rows: NDArray[np.int64]) -> "Pairs":
        """Return the same pairs with other numbers of trajectories: `rows` [M] has the new number of each."""
        return replace(self, chosen=rows[self.chosen], rejected=rows[self.rejected])

    def without(self, earlier: "Pairs") -> "Pairs":
        """Return the pairs whose two trajectories are no pair of `earlier`, in either order."""
        new = ~np.isin(_ends(self), _ends(earlier))
        return Pairs(**{field.name: getattr(self, field.name)[new] for field in fields(Pairs)})


def _ends(pairs: Pairs) -> NDArray[np.int64]:
    """[P], a number for the two trajectories of each pair, whichever is chosen."""
    low, high = np.minimum(pairs.chosen, pairs.rejected), np.maximum(pairs.chosen, pairs.rejected)
    ends: NDArray[np.int64] = (high << 32) + low
    return ends


def no_pairs() -> Pairs:
    """None of them."""
    none = np.empty(0, np.int64)
    return Pairs(chosen=none, rejected=none, labels=none.astype(np.float32), margins=none.astype(np.float64))


def read_pairs(dataset: Dataset, name: str) -> tuple[list[str], Pairs]:
    """Return the sample ids of the M trajectories of a table of pairs, in the order of first mention, and its pairs.

    In that order all chosen samples come before all rejected ones. The pairs refer to trajectories by their index.

    Raises:
        ConfigError: a pair of a sample that is not in the data set.
        DamagedError: pairs that `ppod-data verify` calls damaged: of two prompts, of a sample with itself, with a label
            that is no probability or a margin that is no number, or two pairs of the same two samples.
    """
    prompts = PromptOf(dataset.spec, np.ones(dataset.spec.num_samples, bool), dataset.numbers)
    keys: list[NDArray[np.int64]] = []
    chosen: list[NDArray[np.int32]] = []
    rejected: list[NDArray[np.int32]] = []
    labels, margins = [np.empty(0, np.float32)], [np.empty(0)]
    for table in dataset.iter_pairs(name, PAIR_COLUMNS):
        for column, numbers in (("chosen_id", chosen), ("rejected_id", rejected)):
            found = dataset.numbers.find(table[column])
            if (found < 0).any():
                unknown = table[column][int(np.argmin(found))]
                raise ConfigError(
                    f"{dataset.root}: no sample {unknown} in this data set: was it made from another?"
                )
            numbers.append(found.astype(np.int32))
        _refuse(dataset, name, next(pair_problems(table, prompts), None))
        keys.append(pair_keys(table, prompts))
        labels.append(table["label"].to_numpy())
        margins.append(table["margin"].fill_null(np.nan).to_numpy())
    _refuse(dataset, name, repeated_pair(keys, prompts))
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


def _refuse(dataset: Dataset, name: str, problem: Problem | None) -> None:
    if problem is not None:
        raise DamagedError(
            f"{dataset.root / 'pairs' / f'{name}.parquet'}: {problem[1]}: get the table again, or make another one "
            "(ppod-data verify names every such pair)"
        )


def _rows_of(dataset: Dataset, samples: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the ids of the distinct samples in the order of first mention, and each mention's index among them."""
    spec = dataset.spec
    first = np.full(spec.num_samples, len(samples))
    first[samples[::-1]] = np.arange(len(samples))[
        ::-1
    ]  # of several places of a sample the last written stays
    named = np.argsort(first, kind="stable")[: np.count_nonzero(first < len(samples))]
    row_of = np.empty(spec.num_samples, np.int64)
    row_of[named] = np.arange(len(named))
    places = map(spec.place, named.tolist())
    return [spec.sample_id(spec.prompt_ids[prompt], k) for prompt, k in places], row_of[samples]
