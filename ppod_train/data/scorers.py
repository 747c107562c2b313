"""Check that one reward model ranked or scored all data of a run, because rewards have units."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError


def check_one_scorer(datasets: Sequence[Dataset], folder: str, name: str) -> None:
    """Raise ConfigError if the tables `folder`/`name` of the data sets come from different reward models.

    Tables of people's pairs, and tables without a recorded reward model, are compatible with every other table.
    """
    if len(datasets) < 2:
        return
    first: tuple[Dataset, Any] | None = None
    for dataset in datasets:
        scorer = _pairs_by(dataset.pairs_made(name)) if folder == "pairs" else _scores_by(dataset, name)
        if scorer is None:
            continue
        if first is None:
            first = dataset, scorer
        elif scorer != first[1]:
            raise ConfigError(
                f"{folder}/{name} of {first[0].root} comes from {_describe(first[1])}, {folder}/{name} of "
                f"{dataset.root} from {_describe(scorer)}: score both with one reward under one name, and train on "
                "that table"
            )


def _pairs_by(made: Mapping[str, Any]) -> Any:
    """Return the reward model, or the weighted reward models, that ranked a table of pairs."""
    if isinstance(made.get("rewards"), Mapping):
        return made["rewards"]
    return (made["scorer"], made.get("revision")) if made.get("scorer") else None


def _scores_by(dataset: Dataset, name: str) -> Any:
    for shard in dataset.score_parts(name):  # `Dataset.scores` rejects a table of several scorers
        table = dataset.score_part(name, shard, ["sample_id", "scorer", "revision"])
        if len(table):
            return tuple(pc.unique(table[column])[0].as_py() for column in ("scorer", "revision"))
    return None


def _describe(scorer: Any) -> str:
    if isinstance(scorer, Mapping):
        return " + ".join(f"{part.get('weight')}*{part.get('scorer')}" for part in scorer.values())
    return f"{scorer[0]} (revision {scorer[1]})"
