"""Pairs of images of the same prompt, the one with the higher score chosen over the other.

A tie is not a preference: it is dropped and counted, and so is a margin too small to mean something. An image
without a score is never paired. The table is a pure function of samples, scores and options; the order of the
rows in the score table does not matter.

Shapes: K scored images of one prompt, P pairs.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.dataset import Dataset
from ppod_data.errors import ConfigError, NothingToLearnError
from ppod_data.files import DataPath, canonical_json
from ppod_data.noise import generator
from ppod_data.score import OK
from ppod_data.seal import seal_file
from ppod_data.tables import PAIRS, check_name, read_table, write_table

STRATEGIES = ("random", "best-worst", "all")
_DEFAULT_PAIRS = {"random": 256, "best-worst": 1, "all": None}
_METADATA = b"ppod"


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
    reward: str | Mapping[str, float],
    name: str,
    strategy: str = "random",
    num_pairs_per_prompt: int | None = None,
    min_margin: float = 0.0,
    label_temperature: float | None = None,
    seed: int = 0,
) -> PairSummary:
    """Write `pairs/<name>.parquet`: pairs of rated images of the same prompt.

    Args:
        reward: the score table, `scores/<reward>`; or several, each with its weight: an image's score is the weighted
            sum of its scores, and an image that lacks one of them has none.
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
    path = dataset.root / "pairs" / f"{check_name(name, 'a table of pairs')}.parquet"
    weights = None if isinstance(reward, str) else check_weights(reward)
    scored = _Scored.read(dataset, {str(reward): 1.0} if weights is None else weights)
    selections = {
        prompt: select_pairs(scores, strategy, limit, min_margin, generator("pairs", seed, prompt))
        for prompt, (_, scores) in scored.prompts.items()
    }
    columns = _columns(scored, selections, f"reward:{reward if weights is None else name_sum(weights)}")
    if label_temperature is not None:
        margins = np.array(columns["margin"])
        columns["label"] = (1 / (1 + np.exp(-margins / label_temperature))).tolist()
    summary = _summarise(scored, selections, columns["margin"])
    if summary.num_pairs == 0:
        raise NothingToLearnError(
            f"no pair in {dataset.root}: {summary.num_ties} ties, {summary.num_below_margin} with a margin of"
            f" at most {min_margin}, {summary.num_unscored} images without a score: lower --min-margin, or"
            " make more images of each prompt"
        )
    options: dict[str, Any] = {
        **_described(scored, weights),
        "fingerprint": dataset.spec.fingerprint,
        "strategy": strategy,
        "num_pairs_per_prompt": limit,
        "min_margin": min_margin,
        "seed": seed,
    }
    if label_temperature is not None:
        options["label_temperature"] = label_temperature
    table = pa.table(columns, schema=PAIRS)
    metadata = {_METADATA: canonical_json({**options, "counts": asdict(summary)}).encode()}
    _write_once(path, table.replace_schema_metadata({**table.schema.metadata, **metadata}), options)
    return summary


def check_weights(rewards: Mapping[str, float]) -> dict[str, float]:
    """Score tables and their weights in the order of the names. Raises ConfigError for a weight that is no weight."""
    for name, weight in rewards.items():
        if not math.isfinite(weight) or weight == 0:
            raise ConfigError(f"the weight of {name} is {weight}: it must be a number other than 0")
    if not rewards:
        raise ConfigError("no reward to rank by: give one")
    return {name: float(rewards[name]) for name in sorted(rewards)}


def name_sum(weights: Mapping[str, float]) -> str:
    """A weighted sum in words: "0.3*aesthetic+0.7*image-reward"."""
    return "+".join(f"{weight!r}*{name}" for name, weight in weights.items())


def _described(scored: "_Scored", weights: Mapping[str, float] | None) -> dict[str, Any]:
    """What the pairs were ranked by, for the table's metadata."""
    tables = {name: {"scorer": one.scorer, "revision": one.revision} for name, one in scored.tables.items()}
    if weights is None:
        ((name, identity),) = tables.items()
        return {"reward": name, **identity}
    return {"rewards": {name: {"weight": weights[name], **tables[name]} for name in weights}}


def select_pairs(
    scores: NDArray[np.float64],
    strategy: str,
    limit: int | None,
    min_margin: float,
    generator: np.random.Generator,
) -> Selection:
    """The pairs of one prompt's finite scores [K]; `limit` is the number of pairs, None for all."""
    count = len(scores)
    if strategy == "all":
        first, second = np.triu_indices(count, 1)
    elif strategy == "best-worst":
        order = np.argsort(-scores, kind="stable")
        number = min(limit or 1, count // 2)
        first, second = order[:number], order[::-1][:number]
    else:
        first, second = _draw(scores.tolist(), limit or count * count, min_margin, generator)
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
    scores: Sequence[float], limit: int, min_margin: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct pairs of rows in random order, up to and including the limit-th usable one."""
    drawn: list[tuple[int, int]] = []
    usable = 0
    for number in _shuffled(len(scores) * (len(scores) - 1) // 2, generator):
        # The pairs (0, 1), (0, 2), (1, 2), (0, 3), … are numbered 0, 1, 2, 3, …
        second = (1 + math.isqrt(1 + 8 * number)) // 2
        first = number - second * (second - 1) // 2
        drawn.append((first, second))
        usable += abs(scores[first] - scores[second]) > min_margin
        if usable == limit:
            break
    rows = np.array(drawn, np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _shuffled(total: int, generator: np.random.Generator) -> Iterator[int]:
    """0 … total - 1 in random order, in memory that grows with what is taken and not with `total`."""
    moved: dict[int, int] = {}
    for place in range(total):
        other = place + int(generator.integers(total - place))
        yield moved.get(other, other)
        moved[other] = moved.pop(place, place)


@dataclass(frozen=True, kw_only=True)
class _ScoreTable:
    """One table of scores."""

    scorer: str
    revision: str
    known: dict[str, float]
    """The finite score of each sample that has one."""

    @classmethod
    def read(cls, dataset: Dataset, name: str, samples: Any) -> "_ScoreTable":
        """Raises ConfigError for an unknown score table, two revisions in one, and scores of other images."""
        scores = dataset.scores(name)
        identities = pc.unique(
            pc.binary_join_element_wise(scores["scorer"], scores["revision"], "\n")
        ).to_pylist()
        if len(identities) != 1:
            raise ConfigError(f"scores/{name} mixes scorers or revisions: remove it and score again")
        scorer, _, revision = identities[0].partition("\n")
        known = _usable_scores(scores, samples, f"scores/{name}")
        return cls(scorer=scorer, revision=revision, known=known)


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """The scored images of a data set."""

    tables: dict[str, _ScoreTable]
    prompts: dict[str, tuple[list[str], NDArray[np.float64]]]
    """For each prompt_id, in the prompts' order: sample ids by image_index, and their finite scores [K]."""
    num_unscored: int

    @classmethod
    def read(cls, dataset: Dataset, weights: Mapping[str, float]) -> "_Scored":
        """By the weighted sum of these score tables. Errors as of `_ScoreTable.read`."""
        samples = dataset.samples(["image_index", "sample_id", "prompt_id", "image_pixels_sha256"])
        tables = {name: _ScoreTable.read(dataset, name, samples) for name in weights}
        known = _weighted([(weights[name], table.known) for name, table in tables.items()])
        grouped: dict[str, list[tuple[int, str]]] = {}
        for index, sample_id, prompt_id in _rows(samples, "image_index", "sample_id", "prompt_id"):
            group = grouped.setdefault(prompt_id, [])
            if sample_id in known:
                group.append((index, sample_id))
        prompts = {}
        for prompt_id, group in grouped.items():
            ids = [sample_id for _, sample_id in sorted(group)]
            prompts[prompt_id] = (ids, np.array([known[sample_id] for sample_id in ids], np.float64))
        return cls(tables=tables, prompts=prompts, num_unscored=samples.num_rows - len(known))


def _weighted(parts: Sequence[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """The sum of weight × score for each sample that every part knows."""
    shared = set.intersection(*(set(known) for _, known in parts))
    return {key: sum(weight * known[key] for weight, known in parts) for key in shared}


def _usable_scores(scores: Any, samples: Any, table: str) -> dict[str, float]:
    """The finite score of each sample that has one. Raises ConfigError where they are of other images."""
    pixels = dict(_rows(samples, "sample_id", "image_pixels_sha256"))
    usable: dict[str, float] = {}
    for sample_id, score, status, judged in _rows(
        scores, "sample_id", "score", "status", "image_pixels_sha256"
    ):
        if sample_id not in pixels:
            raise ConfigError(
                f"{table} holds sample {sample_id}, which is not here: get its shard, or score again"
            )
        if judged != pixels[sample_id]:
            raise ConfigError(f"{table} is of other images (sample {sample_id}): remove it and score again")
        if status == OK and score is not None and math.isfinite(score):
            usable[sample_id] = score
    return usable


def _rows(table: Any, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[column].to_pylist() for column in columns), strict=True)


def check_pair_options(
    strategy: str, num_pairs_per_prompt: int | None, min_margin: float, label_temperature: float | None
) -> int | None:
    """The number of pairs a prompt that the strategy makes; None is all. Raises ConfigError, naming the option."""
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


def _columns(scored: _Scored, selections: dict[str, Selection], source: str) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in PAIRS.names}
    for prompt_id, selection in selections.items():
        ids, scores = scored.prompts[prompt_id]
        columns["chosen_id"] += [ids[row] for row in selection.chosen]
        columns["rejected_id"] += [ids[row] for row in selection.rejected]
        columns["margin"] += (scores[selection.chosen] - scores[selection.rejected]).tolist()
        columns["prompt_id"] += [prompt_id] * len(selection.chosen)
    columns["pair_id"] = [
        hashlib.sha256(canonical_json([chosen, rejected, source]).encode()).hexdigest()[:32]
        for chosen, rejected in zip(columns["chosen_id"], columns["rejected_id"], strict=True)
    ]
    number = len(columns["pair_id"])
    columns |= {"label": [1.0] * number, "source": [source] * number, "votes": [None] * number}
    return columns


def _summarise(scored: _Scored, selections: dict[str, Selection], margins: Sequence[float]) -> PairSummary:
    paired = sum(len(selection.chosen) > 0 for selection in selections.values())
    return PairSummary(
        num_pairs=len(margins),
        num_ties=sum(selection.num_ties for selection in selections.values()),
        num_below_margin=sum(selection.num_below_margin for selection in selections.values()),
        num_unscored=scored.num_unscored,
        num_prompts=paired,
        num_prompts_without_pairs=len(selections) - paired,
        median_margin=float(np.median(margins)) if len(margins) else 0.0,
    )


def _write_once(path: DataPath, table: Any, options: dict[str, Any]) -> None:
    """Write the table unless the same one is there. Raises ConfigError when another one has the name."""
    if not path.exists():
        write_table(path, table)
        seal_file(path)
        return
    existing = read_table(path, PAIRS)
    if existing.equals(table, check_metadata=True):
        seal_file(path)
        return
    old = json.loads((existing.schema.metadata or {}).get(_METADATA, b"{}"))
    for key in [key for key in {**options, **old} if key != "counts"]:
        if old.get(key) != options.get(key):
            raise ConfigError(
                f"pairs/{path.name} was made with {key} {old.get(key)!r}, not {options.get(key)!r}: "
                "give another --name"
            )
    raise ConfigError(f"pairs/{path.name} was made from other scores or fewer images: give another --name")
