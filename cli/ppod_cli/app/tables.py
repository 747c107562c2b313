"""The table of a data set that a command reads where none is named."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppod_data.errors import ConfigError
from ppod_data.rewards import BUILDERS

if TYPE_CHECKING:
    from ppod_data.dataset.dataset import Dataset

_MADE_BY = {"pairs": "ppod-pair rank", "scores": "ppod-score"}


def only_table(datasets: "Sequence[Dataset]", folder: str, option: str) -> str:
    """Return the one table under `folder` that every data set has.

    Args:
        folder: pairs or scores.
        option: the option that names a table, for messages.

    Raises:
        ConfigError: there is none, or several.
    """
    names = [_names(dataset, folder) for dataset in datasets]
    common = [name for name in names[0] if all(name in others for others in names)]
    if len(common) == 1:
        return common[0]
    where = str(datasets[0].root) if len(datasets) == 1 else f"the {len(datasets)} data sets"
    if common:
        raise ConfigError(
            f"{where}: there are {len(common)} tables of {folder}, {', '.join(common)}: choose with {option} NAME"
        )
    shared = "" if len(datasets) == 1 else " in common"
    raise ConfigError(f"{where}: no {folder}{shared} yet: make them with {_MADE_BY[folder]}")


def _names(dataset: "Dataset", folder: str) -> list[str]:
    return dataset.pair_names() if folder == "pairs" else dataset.score_names()


def usual_reward_of(model: str, what: str) -> str:
    """Return the reward of the model `scenes`, which reads its prompts.

    Raises:
        ConfigError: another model, whose images no reward is assumed to suit. `what` is judged, for the message.
    """
    if model == "scenes":
        return "scenes"
    known = ", ".join(name for name in sorted(BUILDERS) if not name.startswith("scenes"))
    raise ConfigError(
        f"which reward judges {what} of {model}? give --reward NAME: {known}; MODULE:FUNCTION is one of yours, "
        "http://HOST:PORT one that ppod-score --serve serves"
    )
