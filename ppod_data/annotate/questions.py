"""Selection of the images of a prompt that people compare: at random, or where rewards are least certain.

The same samples, scores and seed give the same questions in the same order. Shapes: N samples, n images of a prompt.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.labels.matching import SampleIndex
from ppod_data.labels.stored import read_scores
from ppod_data.support.noise import generator

_CANDIDATES = 4096
"""Maximum number of groups per prompt that are drawn before they are ordered."""
_KEPT = 4
"""Groups kept while prompts are read, as a multiple of the groups to draw."""
_Group = tuple[int, ...]
_Order = Callable[[list[_Group]], list[_Group]]


@dataclass(frozen=True)
class Question:
    """Images of one prompt to compare; the order of display is independent of `ids`."""

    prompt: str
    ids: tuple[str, ...]


def read_questions(
    dataset: Dataset, *, size: int, count: int, seed: int, choose: str = "random", rewards: Sequence[str] = ()
) -> list[Question]:
    """Draw groups of a data set's samples by `draw_groups`; `rewards` are names of score tables.

    Excluded samples, and samples that a safety checker flagged, are left out.

    Raises:
        ConfigError: no such groups, an unknown score table, or a wrong number of rewards for `choose`.
    """
    if len(rewards) != REWARDS_OF[choose]:
        expected = {0: "none", 1: "one", 2: "two"}[REWARDS_OF[choose]]
        raise ConfigError(f"--choose {choose} reads {expected} of --reward NAME, not {len(rewards)}")
    if choose != "random" and size != 2:
        raise ConfigError(f"--choose {choose} compares two images: give --images-per-question 2")
    index = SampleIndex.read(dataset)
    scores = [read_scores(dataset, name, index) for name in rewards]
    rows = _showable_rows(dataset)
    groups = draw_groups(
        index.prompt_of[rows],
        size=size,
        count=count,
        seed=seed,
        choose=choose,
        scores=[score[rows] for score in scores],
    )
    drawn = [rows[list(group)].tolist() for group in groups]
    return [
        Question(
            index.prompts[int(index.prompt_of[samples[0]])].as_py(),
            tuple(index.ids[sample].as_py() for sample in samples),
        )
        for samples in drawn
    ]


def read_pair_questions(dataset: Dataset, table: str, *, count: int, seed: int) -> list[Question]:
    """Draw at most `count` of the pairs of `pairs/<table>`, each as a question about its two images.

    Raises:
        ConfigError: an unknown table.
    """
    prompts = dict(zip(dataset.spec.prompt_ids, dataset.spec.prompts, strict=True))
    pairs = {
        frozenset((a, b)): prompts[prompt]
        for piece in dataset.iter_pairs(table, ("prompt_id", "chosen_id", "rejected_id"))
        for prompt, a, b in zip(*(piece[column].to_pylist() for column in piece.column_names), strict=True)
    }
    questions = [Question(prompt, tuple(sorted(ids))) for ids, prompt in pairs.items()]
    order = generator("label", seed, "pairs", table).permutation(len(questions))
    return [questions[row] for row in order[:count]]


def _showable_rows(dataset: Dataset) -> NDArray[np.int64]:
    """Return the samples that may be shown, as rows of the SampleIndex."""
    if dataset.spec.safety_checker is None:
        return np.arange(dataset.num_samples)
    return np.flatnonzero(~np.asarray(dataset.samples(["flagged"])["flagged"]))


def draw_groups(
    prompt_of: NDArray[np.int32],
    *,
    size: int,
    count: int,
    seed: int,
    choose: str = "random",
    scores: Sequence[NDArray[np.float64]] = (),
) -> list[_Group]:
    """Draw at most `count` groups of `size` samples of one prompt, as ascending rows, alternating between prompts.

    Args:
        prompt_of: [N], the prompt of each sample.
        choose: "random"; "small-margin", pairs with the closest scores first; or "disagreement", pairs that two
            rewards order differently, with the largest difference in both first.
        scores: [N] of each reward, NaN without a score: one for small-margin, two for disagreement.

    Raises:
        ConfigError: no prompt has such a group.
    """
    order = _ORDERS[choose](scores)
    rows_of = _rows_by_prompt(prompt_of)
    prompts = np.fromiter(rows_of, prompt_of.dtype, len(rows_of))
    turns: list[list[_Group]] = []
    kept, rounds = 0, count
    for prompt in generator("label", seed, "prompts").permutation(prompts).tolist():
        most = min(rounds, _CANDIDATES) if choose == "random" else _CANDIDATES
        groups = order(_candidates(rows_of[prompt], size, most, generator("label", seed, prompt)))[:rounds]
        if groups:
            turns.append(groups)
            kept += len(groups)
        if len(turns) >= count:  # the first round alone gives enough
            break
        if kept > _KEPT * count:  # no later round can give a group that is drawn
            rounds = _num_rounds([len(groups) for groups in turns], count)
            turns = [groups[:rounds] for groups in turns]
            kept = sum(map(len, turns))
    drawn = [group for turn in itertools.zip_longest(*turns) for group in turn if group is not None]
    if not drawn:
        raise ConfigError(
            f"no prompt has {size} images to compare in this way: "
            + ("generate more images per prompt" if choose == "random" else "try --choose random")
        )
    return drawn[:count]


def _rows_by_prompt(prompt_of: NDArray[np.int32]) -> dict[int, NDArray[np.int64]]:
    """Return the ascending rows of each prompt; the prompts ascend as well."""
    order = np.argsort(prompt_of, kind="stable")
    prompts, starts = np.unique(prompt_of[order], return_index=True)
    return dict(zip(prompts.tolist(), np.split(order, starts[1:]), strict=True))


def _num_rounds(lengths: Sequence[int], count: int) -> int:
    """Return the rounds in which turns of these lengths give `count` groups, one each a round; at most `count`."""
    return bisect_left(range(count), count, key=lambda rounds: sum(min(n, rounds) for n in lengths))


def _candidates(rows: NDArray[np.int64], size: int, most: int, random: np.random.Generator) -> list[_Group]:
    """Return at most `most` distinct groups of these rows in random order. A larger `most` appends groups."""
    if math.comb(len(rows), size) <= _CANDIDATES:
        groups = list(itertools.combinations(rows.tolist(), size))
        return [groups[i] for i in random.permutation(len(groups))[:most]]
    return list(itertools.islice(_distinct(rows, size, random), most))


def _distinct(rows: NDArray[np.int64], size: int, random: np.random.Generator) -> Iterator[_Group]:
    seen: set[_Group] = set()
    while True:
        group = tuple(sorted(map(int, random.choice(rows, size, replace=False))))
        if group not in seen:
            seen.add(group)
            yield group


def _random(scores: Sequence[NDArray[np.float64]]) -> _Order:
    return lambda groups: groups


def _small_margin(scores: Sequence[NDArray[np.float64]]) -> _Order:
    (score,) = scores

    def order(groups: list[_Group]) -> list[_Group]:
        margins = {pair: abs(score[pair[0]] - score[pair[1]]) for pair in groups}
        return sorted((pair for pair in groups if math.isfinite(margins[pair])), key=margins.__getitem__)

    return order


def _disagreement(scores: Sequence[NDArray[np.float64]]) -> _Order:
    first, second = (_ranks(score) for score in scores)

    def disagreement(pair: _Group) -> float:
        """Return the smaller rank difference of the two rewards; negative if they agree."""
        a, b = pair
        by_first, by_second = first[a] - first[b], second[a] - second[b]
        return float(-np.sign(by_first * by_second) * min(abs(by_first), abs(by_second)))

    def order(groups: list[_Group]) -> list[_Group]:
        return sorted((pair for pair in groups if disagreement(pair) > 0), key=disagreement, reverse=True)

    return order


def _ranks(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each score among all scores, so that rewards of any scale compare; NaN stays NaN."""
    known = np.isfinite(score)
    ranks = np.searchsorted(np.sort(score[known]), score).astype(np.float64)
    return np.where(known, ranks, math.nan)


_ORDERS: dict[str, Callable[[Sequence[NDArray[np.float64]]], _Order]] = {
    "random": _random,
    "small-margin": _small_margin,
    "disagreement": _disagreement,
}
REWARDS_OF = {"random": 0, "small-margin": 1, "disagreement": 2}
"""Number of rewards that each value of --choose reads."""
