"""Options of the command that trains on a data set."""

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.inspect.judge import judge_of_tables, must_be_named


def judge_options(dataset: Dataset, pairs: str) -> list[str]:
    """Return the options of `ppod-train offline` that name who judges; [] if the pairs name their reward.

    Pairs of people name no reward. A reward that scored the data set judges, or none.
    """
    try:
        judge = judge_of_tables([dataset], "pairs", pairs)
    except ConfigError:
        return _judge_of_people(dataset)
    return ["--reward", judge.parts[0].reward] if must_be_named(judge, [dataset.root]) else []


def _judge_of_people(dataset: Dataset) -> list[str]:
    for name in dataset.score_names():
        try:
            judge = judge_of_tables([dataset], "scores", name)
        except ConfigError:
            continue
        return ["--reward", judge.parts[0].reward]
    return ["--reward", "scenes"] if dataset.spec.model == "scenes" else ["--eval-every", "0"]
