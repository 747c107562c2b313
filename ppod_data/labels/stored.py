"""Label and score tables of a data set as numbers."""

import math
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.labels.answers import OVERALL
from ppod_data.labels.matching import SampleIndex
from ppod_data.labels.votes import Votes
from ppod_data.scoring.rows import OK

PEOPLE = "bradley-terry"
"""Scorer name of score tables that people's comparisons made."""


def read_votes(
    dataset: Dataset, name: str, index: SampleIndex, dimension: str | None
) -> tuple[Votes, list[str | None], str]:
    """Return the labels of one dimension of `labels/<name>`, their annotators, and the dimension.

    Raises:
        ConfigError: an unknown table or dimension, or labels on samples that are missing.
    """
    table = dataset.labels(name, ["a_id", "b_id", "label", "votes", "annotator", "dimension"])
    chosen = choose_dimension(sorted(pc.unique(table["dimension"]).to_pylist()), dimension)
    table = table.filter(pc.equal(table["dimension"], chosen))
    votes = Votes(
        a=rows_of(table["a_id"], index, f"labels/{name}"),
        b=rows_of(table["b_id"], index, f"labels/{name}"),
        label=np.asarray(table["label"]),
        votes=np.asarray(pc.fill_null(table["votes"], 0)),
    )
    return votes, table["annotator"].to_pylist(), chosen


def choose_dimension(known: list[str], requested: str | None) -> str:
    """Return the requested dimension; without a request "overall" or the only dimension."""
    if requested is None:
        if OVERALL in known:
            return OVERALL
        if len(known) == 1:
            return known[0]
        raise ConfigError(f"the labels are on {', '.join(known)}: choose one with --dimension")
    if requested not in known:
        raise ConfigError(f"no labels on {requested!r}: choose one of {', '.join(known)}")
    return requested


def rows_of(ids: Any, index: SampleIndex, table: str) -> NDArray[np.int32]:
    """Convert sample ids to rows of the index.

    Raises:
        ConfigError: a sample is missing.
    """
    rows = pc.index_in(ids, value_set=index.ids)
    if rows.null_count:
        missing = ids.filter(pc.is_null(rows))[0].as_py()
        raise ConfigError(f"{table} refers to sample {missing}, which is missing here: copy its shard")
    return np.asarray(rows).astype(np.int32)


def reward_names(dataset: Dataset) -> list[str]:
    """Return the score tables that were not made from people's labels."""
    return [
        name for name in dataset.score_names() if PEOPLE not in dataset.scores(name)["scorer"].to_pylist()
    ]


def read_scores(dataset: Dataset, name: str, index: SampleIndex) -> NDArray[np.float64]:
    """Return the score of every sample of the index in `scores/<name>`, NaN without a score."""
    table = dataset.scores(name)
    scores: NDArray[np.float64] = np.full(len(index.prompt_of), np.nan)
    rows = rows_of(table["sample_id"], index, f"scores/{name}")
    for row, score, status in zip(rows, table["score"].to_pylist(), table["status"].to_pylist(), strict=True):
        if status == OK and score is not None and math.isfinite(score):
            scores[row] = score
    return scores
