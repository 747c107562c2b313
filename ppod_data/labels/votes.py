"""Pairs from labels: all labels on two images become one label.

Legend: L labels, P pairs, N samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppod_data.format.pair_ids import key_samples, pair_key
from ppod_data.labels.answers import TIE
from ppod_data.labels.matching import SampleIndex
from ppod_data.pairs.writer import pair_table

_PIECE = 100_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Votes:
    """L comparisons of samples, as rows of a SampleIndex."""

    a: NDArray[np.int32]
    b: NDArray[np.int32]
    label: NDArray[np.float64]
    """Probability that a is preferred; 0.5 is a tie."""
    votes: NDArray[np.int32]
    """Number of people behind the label; 0 if unknown."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Merged:
    """P distinct pairs with all their votes, sorted by the earlier and then the later sample."""

    chosen: NDArray[np.int64]
    rejected: NDArray[np.int64]
    label: NDArray[np.float64]
    """Probability that chosen is preferred, 0.5 to 1."""
    votes: NDArray[np.int64]
    """0 if unknown."""
    num_tied_labels: int
    """Labels that are ties; without `keep_ties` no pair contains them."""
    num_undecided: int
    """Pairs with equal votes for both images; left out without `keep_ties`."""
    num_contradictory: int
    """Pairs with votes for each image; their label is the share of the votes."""


def merge(votes: Votes, *, keep_ties: bool = False) -> Merged:
    """Merge the labels of each pair into their mean, weighted by the number of people.

    With `keep_ties` a tie is a label of 0.5 like any other, and pairs with equal votes keep the label 0.5.
    """
    tied = votes.label == TIE
    use = np.ones(len(tied), bool) if keep_ties else ~tied
    a, b = votes.a[use], votes.b[use]
    prefers_low = np.where(a < b, votes.label[use], 1 - votes.label[use])
    keys, pair = np.unique(pair_key(a, b), return_inverse=True)
    weight = np.maximum(votes.votes[use], 1).astype(np.float64)
    total = np.bincount(pair, weight, len(keys))
    label = np.bincount(pair, weight * prefers_low, len(keys)) / total
    people = np.bincount(pair, votes.votes[use], len(keys)).astype(np.int64)
    unknown = np.bincount(pair, votes.votes[use] == 0, len(keys)) > 0
    contradictory = _any(pair, prefers_low > TIE, len(keys)) & _any(pair, prefers_low < TIE, len(keys))
    undecided = label == TIE
    kept = np.ones(len(keys), bool) if keep_ties else ~undecided
    low, high = key_samples(keys)
    low_wins = label >= TIE
    return Merged(
        chosen=np.where(low_wins, low, high)[kept],
        rejected=np.where(low_wins, high, low)[kept],
        label=np.where(low_wins, label, 1 - label)[kept],
        votes=np.where(unknown, 0, people)[kept],
        num_tied_labels=int(tied.sum()),
        num_undecided=int(undecided.sum()),
        num_contradictory=int(contradictory.sum()),
    )


def first_answers(votes: Votes, annotators: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark which of L labels are their annotator's first answer on a pair; annotators [L] are −1 if unnamed."""
    first: NDArray[np.bool_] = annotators < 0
    named = np.flatnonzero(~first)
    if len(named):
        _, pair = np.unique(pair_key(votes.a[named], votes.b[named]), return_inverse=True)
        _, places = np.unique(annotators[named] * (int(pair.max()) + 1) + pair, return_index=True)
        first[named[places]] = True
    return first


def _any(pair: NDArray[np.int64], flags: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.bincount(pair, flags, count) > 0
    return found


def pair_tables(merged: Merged, index: SampleIndex, source: str) -> Iterator[Any]:
    """Yield the rows of pairs/<name>.parquet as Arrow tables, a piece at a time."""
    for first in range(0, len(merged.chosen), _PIECE):
        piece = slice(first, first + _PIECE)
        both = np.stack([merged.chosen[piece], merged.rejected[piece]])
        samples, (won, lost) = np.unique(both, return_inverse=True)
        votes = np.minimum(merged.votes[piece], 2**31 - 1)
        yield pair_table(
            index.ids.take(pa.array(samples)),
            won,
            lost,
            prompt_ids=index.prompt_ids.take(pa.array(index.prompt_of[merged.chosen[piece]])),
            label=merged.label[piece],
            votes=pa.array(votes.astype(np.int32), mask=votes == 0),
            source=source,
        )
