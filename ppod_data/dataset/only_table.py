"""The table of a data set that is read unless one is named."""

from collections.abc import Sequence

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError

_MADE_BY = {"pairs": "ppod-pair rank", "scores": "ppod-score"}


def only_table(datasets: Sequence[Dataset], folder: str, option: str) -> str:
    """Return the one table under `folder` that every data set has.

    Args:
        folder: pairs or scores.
        option: how a table is named, for messages: `--pairs NAME`.

    Raises:
        ConfigError: there is none, or several.
    """
    names = [dataset.pair_names() if folder == "pairs" else dataset.score_names() for dataset in datasets]
    common = [name for name in names[0] if all(name in others for others in names)]
    if len(common) == 1:
        return common[0]
    where = str(datasets[0].root) if len(datasets) == 1 else f"the {len(datasets)} data sets"
    if common:
        raise ConfigError(
            f"{where}: there are {len(common)} tables of {folder}, {', '.join(common)}: choose with {option}"
        )
    shared = "" if len(datasets) == 1 else " in common"
    raise ConfigError(f"{where}: no {folder}{shared} yet: make them with {_MADE_BY[folder]}")
