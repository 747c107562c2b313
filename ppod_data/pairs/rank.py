"""Pairs of images of the same prompt, the one with the higher score chosen over the other.

A tie is not a preference: it is dropped and counted, and so is a margin too small to mean something. An image
without a score is never paired. The table is a pure function of samples, scores and options; the order of the
rows in a part of the score table does not matter. Memory is bounded by the largest shard and the largest prompt.

Shapes: K scored images of one prompt, P pairs.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, NothingToLearnError
from ppod_data.format.provenance import with_provenance
from ppod_data.format.tables import PAIRS, check_name, table_writer
from ppod_data.format.write_once import NewFile, publish_once
from ppod_data.pairs.reward_sum import RewardSum
from ppod_data.pairs.scored_images import Group, ScoredImages
from ppod_data.pairs.writer import Margins, PromptPairs, write_rows
from ppod_data.storage.files import temporary_beside
from ppod_data.storage.real_folders import refuse_linked_folders
from ppod_data.support.noise import generator

STRATEGIES = ("random", "best-worst", "all")
_DEFAULT_PAIRS = {"random": 256, "best-worst": 1, "all": None}
_FEWEST_DRAWS = 64
_COUNTED = ("num_pairs", "num_ties", "num_below_margin", "num_prompts", "num_prompts_without_pairs")
_RECORDED = (*_COUNTED, "num_unscored", "median_margin")
"""What the table's metadata holds of the summary: it stays the same, so that tables made before do."""
_NEAR = 0.1
"""Of the scores' standard deviation within prompts: a smaller margin is close to a tie."""


@dataclass(frozen=True, kw_only=True)
class PairSummary:
    """What `rank` found. num_pairs + num_ties + num_below_margin is the number of pairs that it looked at."""

    num_pairs: int
    num_ties: int
    """Pairs of equal scores, dropped."""
    num_below_margin: int
    """Pairs whose scores differ, but by no more than min_margin, dropped."""
    num_unscored: int
    """Images without a score: in no pair."""
    num_prompts: int
    """Prompts with at least one pair."""
    num_prompts_without_pairs: int
    median_margin: float
    near_tie: float | None
    """A tenth of the standard deviation of scores within prompts, as a round number; None where all are equal. By
    Bradley and Terry's model with that deviation as its unit, the chosen image of such a pair wins 52 times in 100."""
    num_near_ties: int
    """Pairs of the table whose scores differ by less than `near_tie`."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The pairs of one prompt, as rows of its scores."""

    chosen: NDArray[np.int64]
    """[P], and `rejected` too: scores[chosen] - scores[rejected] > min_margin."""
    rejected: NDArray[np.int64]
    num_ties: int
    num_below_margin: int


def rank(
    dataset: Dataset,
    *,
    reward: str | Mapping[str, float] | RewardSum,
    name: str,
    strategy: str = "random",
    num_pairs_per_prompt: int | None = None,
    min_margin: float = 0.0,
    label_temperature: float | None = None,
    seed: int = 0,
) -> PairSummary:
    """Write `pairs/<name>.parquet`: pairs of rated images of the same prompt.

    Args:
        reward: the score table, `scores/<reward>`; or a weighted sum of several, as weights or as a `RewardSum`: an
            image that lacks one of the scores has none.
        strategy: random: distinct pairs at random until num_pairs_per_prompt of them are usable;
            best-worst: the i-th best with the i-th worst image, i up to num_pairs_per_prompt;
            all: every pair of a prompt.
        num_pairs_per_prompt: unless given, 256 for random and 1 for best-worst.
        min_margin: a pair is usable when its scores differ by more than this.
        label_temperature: the label is σ(margin / label_temperature), Bradley and Terry's probability that chosen is
            preferred; None for 1.

    Raises:
        ConfigError: an option out of its range, an unknown score table, scores of other images, or a table of this
            name that was made otherwise. Nothing is written then.
        NothingToLearnError: there is no pair at all.
    """
    limit = check_pair_options(strategy, num_pairs_per_prompt, min_margin, label_temperature)
    refuse_linked_folders(dataset.root)
    path = dataset.root / "pairs" / f"{check_name(name, 'a table of pairs')}.parquet"
    rewards = RewardSum(reward) if isinstance(reward, Mapping) else reward
    images = ScoredImages(dataset, RewardSum({rewards: 1.0}) if isinstance(rewards, str) else rewards)
    source = f"reward:{rewards}"
    counts: Counter[str] = Counter()
    spread = _Spread()
    with tempfile.TemporaryFile() as file, temporary_beside(path) as temporary:
        margins = Margins(file)
        with table_writer(temporary, PAIRS, store_schema=False) as writer:
            prompts = _select(spread.seen(images), strategy, limit, min_margin, seed, counts, margins)
            write_rows(writer, prompts, source, label_temperature)
            summary = PairSummary(
                **{name: counts[name] for name in _COUNTED},
                num_unscored=images.num_unscored,
                median_margin=margins.median(),
                near_tie=spread.near_tie(),
                num_near_ties=margins.below(spread.near_tie() or 0.0),
            )
            if summary.num_pairs == 0:
                raise NothingToLearnError(
                    f"no pair in {dataset.root}: {summary.num_ties} ties, {summary.num_below_margin} with a margin of"
                    f" at most {min_margin}, {summary.num_unscored} images without a score: lower --min-margin, or"
                    " make more images of each prompt"
                )
            options: dict[str, Any] = {
                **_described(images, None if isinstance(rewards, str) else rewards, spread),
                "fingerprint": dataset.spec.fingerprint,
                "strategy": strategy,
                "num_pairs_per_prompt": limit,
                "min_margin": min_margin,
                "seed": seed,
            }
            if label_temperature is not None:
                options["label_temperature"] = label_temperature
            made = {**options, "counts": {key: getattr(summary, key) for key in _RECORDED}}
            writer.add_key_value_metadata(with_provenance({}, made))
        publish_once([NewFile(temporary, path, PAIRS)])
    return summary


@dataclass
class _Spread:
    """The variance of scores within prompts, as the prompts go by."""

    squares: float = 0.0
    freedom: int = 0
    column_squares: NDArray[np.float64] | float = 0.0
    """[R], of each reward."""

    def seen(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups, and count each of them."""
        for group in groups:
            if len(group.scores) > 1:
                with np.errstate(over="ignore", invalid="ignore"):
                    self.squares += float(((group.scores - group.scores.mean()) ** 2).sum())
                    centred = group.columns - group.columns.mean(0)
                    self.column_squares = self.column_squares + (centred**2).sum(0)
                self.freedom += len(group.scores) - 1
            yield group

    def deviations(self) -> list[float]:
        """Return each reward's standard deviation within prompts [R]."""
        values: list[float] = np.atleast_1d(np.sqrt(self.column_squares / max(self.freedom, 1))).tolist()
        return values

    def near_tie(self) -> float | None:
        """Return a tenth of the standard deviation, as 1, 2 or 5 times a power of ten; None without deviation."""
        if not (self.freedom and math.isfinite(self.squares) and self.squares > 0):
            return None
        size = math.log10(_NEAR * math.sqrt(self.squares / self.freedom))
        power = math.floor(size)
        factor = min((1, 2, 5, 10), key=lambda factor: abs(size - power - math.log10(factor)))
        return float(f"{factor}e{power}")


def _select(
    images: Iterable[Group],
    strategy: str,
    limit: int | None,
    min_margin: float,
    seed: int,
    counts: "Counter[str]",
    margins: Margins,
) -> Iterator[PromptPairs]:
    """Yield the pairs of each prompt, and count them in `counts` and `margins`."""
    for group in images:
        random = generator("pairs", seed, group.prompt_id)
        found = select_pairs(group.scores, strategy, limit, min_margin, random)
        some = group.scores[found.chosen] - group.scores[found.rejected]
        margins.add(some)
        counts.update(
            num_pairs=len(some),
            num_ties=found.num_ties,
            num_below_margin=found.num_below_margin,
            num_prompts=len(some) > 0,
            num_prompts_without_pairs=len(some) == 0,
        )
        if len(some):
            yield PromptPairs(
                prompt_id=group.prompt_id,
                ids=group.ids,
                chosen=found.chosen,
                rejected=found.rejected,
                margins=some,
            )


def _described(images: ScoredImages, rewards: RewardSum | None, spread: _Spread) -> dict[str, Any]:
    """Return what the pairs were ranked by, for the table's metadata."""
    tables = {
        name: {"scorer": scorer, "revision": revision}
        for name, (scorer, revision) in images.identities.items()
    }
    if rewards is None:
        ((name, identity),) = tables.items()
        return {"reward": name, **identity}
    known = {name: {"weight": weight, **tables[name]} for name, weight in rewards.weights.items()}
    if rewards.normalise is None:
        return {"rewards": known}
    for name, deviation in zip(known, spread.deviations(), strict=True):
        known[name] |= {"spread": deviation} if math.isfinite(deviation) else {}
    return {"rewards": known, "normalise": rewards.normalise}


def select_pairs(
    scores: NDArray[np.float64],
    strategy: str,
    limit: int | None,
    min_margin: float,
    generator: np.random.Generator,
) -> Selection:
    """Return the pairs of one prompt's finite scores [K]; `limit` is the number of pairs, None for all."""
    count = len(scores)
    if strategy == "all":
        first, second = np.triu_indices(count, 1)
    elif strategy == "best-worst":
        order = np.argsort(-scores, kind="stable")
        number = min(limit or 1, count // 2)
        first, second = order[:number], order[::-1][:number]
    else:
        first, second = _draw(scores, limit or count * count, min_margin, generator)
    higher = scores[first] >= scores[second]
    chosen, rejected = np.where(higher, first, second), np.where(higher, second, first)
    margin = scores[chosen] - scores[rejected]
    tied, usable = margin == 0, margin > min_margin
    return Selection(
        chosen=chosen[usable],
        rejected=rejected[usable],
        num_ties=int(tied.sum()),
        num_below_margin=int((~tied & ~usable).sum()),
    )


def _draw(
    scores: NDArray[np.float64], limit: int, min_margin: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct pairs of rows in random order, up to and including the limit-th usable one."""
    total = len(scores) * (len(scores) - 1) // 2
    others, usable = np.empty(0, np.int64), 0
    while True:
        start = len(others)
        end = min(total, start + max(_FEWEST_DRAWS, start, limit - usable))
        places = np.arange(start, end)
        others = np.concatenate([others, places + generator.integers(total - places)])
        # The pairs (0, 1), (0, 2), (1, 2), (0, 3), … are numbered 0, 1, 2, 3, …; their roots are exact below 2**52.
        numbers = _shuffled(others)
        second = (1 + np.sqrt(1 + 8 * numbers).astype(np.int64)) // 2
        first = numbers - second * (second - 1) // 2
        counted = np.cumsum(np.abs(scores[first] - scores[second]) > min_margin)
        usable = int(counted[-1]) if end else 0
        if end == total or usable >= limit:
            taken = int(np.searchsorted(counted, limit)) + 1
            return first[:taken], second[:taken]


def _shuffled(others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first numbers of 0, 1, 2, … after exchanging index i with index others[i] >= i, in order of i.

    Memory grows with the count of exchanges. The number at an index came there by the last earlier exchange with it,
    from the index of that exchange, and so on back to an untouched index. All indices are followed at once.
    """
    places = np.arange(len(others))
    order = np.argsort(others, kind="stable")
    ordered = others[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    before = np.full(len(others), -1)
    before[order[again + 1]] = order[again]  # the exchange with the same place before this one
    last = np.searchsorted(ordered, places, side="right") - 1
    moved = np.where(ordered[last] == places, order[last], -1)  # the last exchange with each place
    moved = np.where(moved == places, before, moved)
    origin = np.where(moved < 0, places, moved)
    while not np.array_equal(origin, further := origin[origin]):
        origin = further
    return np.where(before < 0, others, origin[before])


def check_pair_options(
    strategy: str, num_pairs_per_prompt: int | None, min_margin: float, label_temperature: float | None
) -> int | None:
    """Return how many pairs of a prompt the strategy makes, None for all. Raises ConfigError, naming the option."""
    if strategy not in STRATEGIES:
        raise ConfigError(f"strategy {strategy!r} is unknown: choose one of {', '.join(STRATEGIES)}")
    if num_pairs_per_prompt is not None and strategy == "all":
        raise ConfigError(
            "strategy all makes every pair: drop num_pairs_per_prompt, or take the strategy random"
        )
    if num_pairs_per_prompt is not None and num_pairs_per_prompt < 1:
        raise ConfigError(f"num_pairs_per_prompt is {num_pairs_per_prompt}: it must be at least 1")
    if not (math.isfinite(min_margin) and min_margin >= 0):
        raise ConfigError(f"min_margin is {min_margin}: it must be 0 or a positive number")
    if label_temperature is not None and not (math.isfinite(label_temperature) and label_temperature > 0):
        raise ConfigError(f"label_temperature is {label_temperature}: it must be a positive number")
    return num_pairs_per_prompt if num_pairs_per_prompt is not None else _DEFAULT_PAIRS[strategy]
