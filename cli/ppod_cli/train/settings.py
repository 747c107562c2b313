"""From the options of a training command to its settings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppod_data.errors import ConfigError

if TYPE_CHECKING:
    import typer

    from ppod_train.settings import TrainSettings


def train_settings(options: Mapping[str, Any], **fixed: Any) -> "TrainSettings":
    """The valid settings that a command's options give; what is not given is the objective's own default.

    Args:
        options: by name; None where not given.
        fixed: settings that are no options of the command.

    Raises:
        ConfigError: a value out of its range, or an option that the objective does not read.
    """
    import dataclasses

    from ppod_train.settings import TrainSettings

    names = {field.name for field in dataclasses.fields(TrainSettings)} - {"objective"}
    given = {name: options[name] for name in names & options.keys() if options[name] is not None}
    settings = TrainSettings.of(options["objective"], **given, **fixed)
    settings.validate()
    return settings


def refuse_unread_tables(
    context: "typer.Context", *, of_pairs: Sequence[str], of_scores: Sequence[str] = ()
) -> None:
    """Raise ConfigError where an option of pairs, or of scores, was given and the objective reads none.

    Args:
        of_pairs: options for an objective of pairs.
        of_scores: options for an objective of single trajectories.
    """
    from ppod_train.objectives import OBJECTIVES

    objective = context.params["objective"]
    on_pairs = OBJECTIVES[objective].on_pairs
    for name in of_scores if on_pairs else of_pairs:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            trains_on = "pairs" if on_pairs else "single trajectories and their scores"
            raise ConfigError(
                f"objective {objective} trains on {trains_on}: leave --{name.replace('_', '-')} out"
            )
