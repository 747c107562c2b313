"""Agreement between people for every label table of a data set, as plain values for JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.labels.agreement import people_agreement, reward_agreement
from ppod_data.labels.matching import SampleIndex
from ppod_data.labels.stored import read_scores, read_votes, reward_names


def label_figures(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Compute the agreement of every label table.

    Returns:
        For each table "rows", and "dimensions" with the results of `people_agreement` and `reward_agreement` for each
        dimension as "people" and "rewards". A table with labels on samples of a missing shard has a "problem" instead.
    """
    names = dataset.label_names()
    if not names:
        return {}
    index = SampleIndex.read(dataset)
    try:
        scores = {name: read_scores(dataset, name, index) for name in reward_names(dataset)}
    except ConfigError as error:
        return {name: {"rows": _rows(dataset, name), "problem": str(error)} for name in names}
    return {name: _figures(dataset, name, index, scores) for name in names}


def _rows(dataset: Dataset, name: str) -> int:
    rows: int = dataset.labels(name, ["dimension"]).num_rows
    return rows


def _figures(
    dataset: Dataset, name: str, index: SampleIndex, scores: Mapping[str, NDArray[Any]]
) -> dict[str, Any]:
    table = dataset.labels(name, ["dimension"])
    figures: dict[str, Any] = {"rows": table.num_rows, "dimensions": {}}
    for dimension in sorted(pc.unique(table["dimension"]).to_pylist()):
        try:
            votes, annotators, _ = read_votes(dataset, name, index, dimension)
        except ConfigError as error:
            return {"rows": table.num_rows, "problem": str(error)}
        figures["dimensions"][dimension] = {
            "people": asdict(people_agreement(votes, annotators)),
            "rewards": [asdict(reward_agreement(votes, column, reward)) for reward, column in scores.items()],
        }
    return figures
