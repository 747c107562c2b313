"""Which reward models ranked or scored the data of a run: rewards have units, so that one run has one of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError


def check_one_scorer(datasets: Sequence[Dataset], folder: str, name: str) -> None:
    """Raise ConfigError where the tables `folder`/`name` of several data sets come from different reward models.

    People's pairs, and tables that do not name their reward model, agree with every other.
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
                f"{folder}/{name} of {first[0].root} comes from {_words(first[1])}, and that of {dataset.root} from "
                f"{_words(scorer)}: score both with the same reward under one name, then train on that table"
            )


def _pairs_by(made: Mapping[str, Any]) -> Any:
    """The reward model, or the weighted ones, that a table of pairs was ranked by."""
    if isinstance(made.get("rewards"), Mapping):
        return made["rewards"]
    return (made["scorer"], made.get("revision")) if made.get("scorer") else None


def _scores_by(dataset: Dataset, name: str) -> Any:
    for shard in dataset.score_parts(name):  # `Dataset.scores` refuses a table of several
        table = dataset.score_part(name, shard, ["sample_id", "scorer", "revision"])
        if len(table):
            return tuple(pc.unique(table[column])[0].as_py() for column in ("scorer", "revision"))
    return None


def _words(scorer: Any) -> str:
    if isinstance(scorer, Mapping):
        return " + ".join(f"{one.get('weight')}*{one.get('scorer')}" for one in scorer.values())
    return f"{scorer[0]} (revision {scorer[1]})"
