"""What a training command trains on, and who judges."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppod_data.errors import ConfigError

if TYPE_CHECKING:
    from ppod_data.dataset.dataset import Dataset
    from ppod_data.rewards import RewardModel
    from ppod_train.data.training_data import DataSource
    from ppod_train.settings import TrainSettings


def refuse_unread_table(objective: str, pairs: str | None, scores: str | None) -> None:
    """Raise ConfigError for a table that the objective does not read."""
    from ppod_train.objectives import OBJECTIVES

    on_pairs = OBJECTIVES[objective].on_pairs
    if (scores if on_pairs else pairs) is not None:
        trains_on = "pairs" if on_pairs else "single trajectories and their scores"
        raise ConfigError(
            f"objective {objective} trains on {trains_on}: leave --{'scores' if on_pairs else 'pairs'} out"
        )


def data_source(
    datasets: "Sequence[Dataset]",
    objective: str,
    pairs: str | None,
    scores: str | None,
    reference_log_probs: str | None,
) -> "DataSource":
    """Return the tables to train on: those that were named, or the only ones.

    Raises:
        ConfigError: there is no such table, or a choice of several.
    """
    from ppod_data.dataset.only_table import only_table
    from ppod_train.data.training_data import DataSource
    from ppod_train.objectives import OBJECTIVES

    if OBJECTIVES[objective].on_pairs:
        pairs = pairs or only_table(datasets, "pairs", "--pairs NAME")
    else:
        scores = scores or only_table(datasets, "scores", "--scores NAME")
    return DataSource(
        roots=[dataset.root for dataset in datasets],
        pairs=pairs or "",
        scores=scores or "",
        reference_log_probs=reference_log_probs,
    )


def load_judge_of(
    source: "DataSource",
    datasets: "Sequence[Dataset]",
    settings: "TrainSettings",
    reward: str | None,
    device: str,
) -> "RewardModel | None":
    """Load the reward that judges while training: the named one, or the one that made the data.

    None where nothing is evaluated.

    Raises:
        ConfigError: nothing says which reward made the data, or it is not here.
    """
    from ppod_data.inspect.judge import judge_of_tables, load_judge
    from ppod_data.rewards import load_reward
    from ppod_train.objectives import OBJECTIVES

    if not settings.eval_every:
        return None
    if reward is not None:
        return load_reward(reward, device)
    folder, _, table = source.target_table(OBJECTIVES[settings.objective]).partition("/")
    return load_judge(judge_of_tables(datasets, folder, table), device, source.roots)
