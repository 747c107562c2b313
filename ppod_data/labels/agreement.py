"""Agreement of people with each other, with themselves, with the side of an image, and with rewards.

Legend: L labels, U units (distinct pairs of images), P pairs with a winner, C categories.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from ppod_data.format.pair_ids import pair_key
from ppod_data.labels.answers import TIE
from ppod_data.labels.votes import Votes, merge
from ppod_data.support.statistics import Interval, wilson

_BINS = 10
_MAX_SLOPE = 1e6
_RTOL = 1e-14


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Pairs with margins of similar size."""

    predicted: float
    """Mean of σ(margin / temperature)."""
    observed: float
    """Mean label of the image with the higher score."""
    count: int


@dataclass(frozen=True, kw_only=True)
class PeopleAgreement:
    """Agreement between answers of different people on the same two images."""

    num_labels: int
    num_units: int
    """Distinct pairs of images."""
    num_annotators: int
    num_units_repeated: int
    """Pairs with at least two answers."""
    tie_rate: float
    """Share of the labels that are ties."""
    raw: float | None
    """Share of agreeing answers among all two answers to a pair; a tie is an answer. None without repeated pairs."""
    fleiss_kappa: float | None
    """Over the repeated pairs; None if all answers are equal or no pair is repeated."""
    krippendorff_alpha: float | None
    """Nominal, over the repeated pairs."""
    self_agreement: float | None
    """Share of equal answers when a person answers a pair again; None without such answers."""
    first_preferred: Interval | None
    """Share of the preferences for image a, the left or first image; 0.5 without a bias to a side."""
    num_preferences: int
    """Answers that prefer an image."""


@dataclass(frozen=True, kw_only=True)
class RewardAgreement:
    """Agreement of a reward with the winners that people chose."""

    reward: str
    num_pairs: int
    """Pairs with a winner and two scores."""
    num_unscored: int
    num_reward_ties: int
    """Pairs whose images have equal rewards; they count neither as right nor as wrong."""
    accuracy: Interval | None
    """Share of the pairs without reward ties whose winner has the higher score."""
    kendall_tau: float | None
    """(right - wrong) / sqrt(all · pairs without reward ties): tau-b over the judged pairs."""
    temperature: float | None
    """T of σ(margin / T) that fits the labels best, as in `ppod-pair rank --label-temperature`. None if the reward
    never predicts them, or always."""
    calibration: list[Bin]
    """Up to ten groups of equal size, small margins first; empty without a temperature."""


@dataclass(frozen=True, kw_only=True)
class LabelAgreement:
    """Agreement of another table of labels, such as a judge's, on the pairs that both tables have."""

    labels: str
    num_pairs: int
    """Pairs of images with labels in both tables."""
    num_ties: int
    """Pairs that are a tie in either table; they count neither as right nor as wrong."""
    accuracy: Interval | None
    """Share of the other pairs with the same winner."""
    krippendorff_alpha: float | None
    """Nominal, of the two tables as two annotators; a tie is an answer."""


def people_agreement(votes: Votes, annotators: list[str | None]) -> PeopleAgreement:
    """Compute annotator agreement over L labels.

    A label with n votes counts as n answers; labels whose counts are not whole numbers are excluded.
    """
    unit, flipped = units(votes)
    known = {name for name in annotators if name is not None}
    first_of: dict[tuple[int, str], int] = {}
    same = seen = 0
    use = np.ones(len(unit), bool)
    prefers = np.where(flipped, 1 - votes.label, votes.label)
    for row, name in enumerate(annotators):
        if name is None:
            continue
        earlier = first_of.setdefault((int(unit[row]), name), row)
        if earlier != row:
            use[row] = False
            seen += 1
            same += bool(prefers[row] == prefers[earlier])
    counts = answer_counts(unit, prefers, votes.votes, use)
    repeated = counts[counts.sum(1) >= 2]
    decided = votes.label != TIE
    people = np.maximum(votes.votes[decided], 1)
    total = int(people.sum())
    return PeopleAgreement(
        num_labels=len(unit),
        num_units=len(counts),
        num_annotators=len(known),
        num_units_repeated=len(repeated),
        tie_rate=float((votes.label == TIE).mean()) if len(unit) else 0.0,
        raw=raw_agreement(repeated),
        fleiss_kappa=fleiss_kappa(repeated),
        krippendorff_alpha=krippendorff_alpha(repeated),
        self_agreement=same / seen if seen else None,
        first_preferred=wilson(float((people * votes.label[decided]).sum()), total) if total else None,
        num_preferences=total,
    )


def units(votes: Votes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return each label's unit [L], numbered from 0, and a mask of labels whose a is the later of the two samples."""
    _, unit = np.unique(pair_key(votes.a, votes.b), return_inverse=True)
    return unit, votes.a > votes.b


def answer_counts(
    unit: NDArray[np.int64], prefers: NDArray[np.float64], votes: NDArray[np.int32], use: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Count each unit's answers for its first image, for its second image, and ties: [U, 3]."""
    people = np.maximum(votes, 1).astype(np.float64)
    for_first = people * prefers
    single = people == 1
    tie = single & (prefers == TIE)
    whole = tie | (np.abs(for_first - np.round(for_first)) < 1e-6)
    use = use & whole
    count = int(unit.max()) + 1 if len(unit) else 0
    columns = [
        np.where(tie, 0, np.round(for_first)),
        np.where(tie, 0, people - np.round(for_first)),
        tie * 1.0,
    ]
    return np.stack([np.bincount(unit[use], column[use], count) for column in columns], axis=1)


def raw_agreement(counts: NDArray[np.float64]) -> float | None:
    """Return the share of agreeing answers among all two answers to a unit.

    Args:
        counts: [U, C], at least two answers per unit.
    """
    total = counts.sum(1)
    pairs = (total * (total - 1)).sum()
    return float((counts * (counts - 1)).sum() / pairs) if pairs else None


def fleiss_kappa(counts: NDArray[np.float64]) -> float | None:
    """Compute Fleiss' kappa (1971): mean agreement within units, corrected for the agreement expected by chance.

    Units may have different numbers of answers.
    """
    if not len(counts):
        return None
    total = counts.sum(1)
    within = ((counts**2).sum(1) - total) / (total * (total - 1))
    shares = counts.sum(0) / counts.sum()
    by_chance = float((shares**2).sum())
    return None if by_chance == 1 else float((within.mean() - by_chance) / (1 - by_chance))


def krippendorff_alpha(counts: NDArray[np.float64]) -> float | None:
    """Compute Krippendorff's alpha for nominal data: 1 - observed / expected disagreement."""
    if not len(counts):
        return None
    total, shares = counts.sum(1), counts.sum(0)
    number = shares.sum()
    observed = ((total**2 - (counts**2).sum(1)) / (total - 1)).sum() / number
    expected = (number**2 - (shares**2).sum()) / (number * (number - 1))
    return None if expected == 0 else float(1 - observed / expected)


def reward_agreement(votes: Votes, scores: NDArray[np.float64], reward: str) -> RewardAgreement:
    """Compare a reward with the pairs that have a winner; scores [N] by sample, NaN without a score."""
    merged = merge(votes)
    margin = scores[merged.chosen] - scores[merged.rejected]
    known = np.isfinite(margin)
    margin, label = margin[known], merged.label[known]
    right, wrong = int((margin > 0).sum()), int((margin < 0).sum())
    decided = right + wrong
    temperature = fit_temperature(margin, label)
    return RewardAgreement(
        reward=reward,
        num_pairs=len(margin),
        num_unscored=int((~known).sum()),
        num_reward_ties=len(margin) - decided,
        accuracy=wilson(right, decided) if decided else None,
        kendall_tau=float((right - wrong) / np.sqrt(len(margin) * decided)) if decided else None,
        temperature=temperature,
        calibration=_calibration(margin, label, temperature) if temperature else [],
    )


def label_agreement(votes: Votes, other: Votes, labels: str) -> LabelAgreement:
    """Compare the winners of two tables; all labels of a table on a pair are one answer, their mean."""
    keys, answers = _winners(votes)
    other_keys, other_answers = _winners(other)
    _, rows, other_rows = np.intersect1d(keys, other_keys, assume_unique=True, return_indices=True)
    both = np.stack([answers[rows], other_answers[other_rows]])
    decided = (both != 0).all(0)
    right, count = int((both[0] == both[1])[decided].sum()), int(decided.sum())
    counts = np.stack([(both == answer).sum(0) for answer in (1, -1, 0)], axis=1).astype(np.float64)
    return LabelAgreement(
        labels=labels,
        num_pairs=len(decided),
        num_ties=len(decided) - count,
        accuracy=wilson(right, count) if count else None,
        krippendorff_alpha=krippendorff_alpha(counts),
    )


def _winners(votes: Votes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each pair's key, and 1 if the earlier sample wins, -1 if the later one does, 0 for a tie [U]."""
    merged = merge(votes, keep_ties=True)
    low_wins = np.where(merged.chosen < merged.rejected, 1, -1)
    return pair_key(merged.chosen, merged.rejected), np.where(merged.label == TIE, 0, low_wins)


def fit_temperature(margin: NDArray[np.float64], label: NDArray[np.float64]) -> float | None:
    """Return the T > 0 that minimises the cross-entropy of σ(margin / T) with the labels; None if no T does.

    The derivative in 1 / T is increasing, so its root is bracketed by doubling and found by Brent's method.
    """

    def slope(inverse: float) -> float:
        return float((margin * (expit(margin * inverse) - label)).sum())

    scale = float(np.abs(margin).max()) if len(margin) else 0.0
    always_right = not np.where(margin > 0, margin * (1 - label), -margin * label).sum() > 0
    if scale == 0 or slope(0.0) >= 0 or always_right:
        return None
    low, high = 0.0, 1.0 / scale
    while slope(high) < 0:
        if high * scale >= _MAX_SLOPE:
            return 1 / high
        low, high = high, 2 * high
    return 1 / float(brentq(slope, low, high, xtol=1e-15 / scale, rtol=_RTOL))


def _calibration(margin: NDArray[np.float64], label: NDArray[np.float64], temperature: float) -> list[Bin]:
    """Compare predicted and observed labels by margin, each pair seen from the image with the higher score."""
    size = np.abs(margin)
    observed = np.where(margin >= 0, label, 1 - label)
    predicted = expit(size / temperature)
    order = np.argsort(size, kind="stable")
    parts = np.array_split(order, min(_BINS, len(order)))
    return [
        Bin(predicted=float(predicted[part].mean()), observed=float(observed[part].mean()), count=len(part))
        for part in parts
    ]
