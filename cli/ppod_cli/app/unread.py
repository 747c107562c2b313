"""Options that nothing would read, which a command refuses."""

from collections.abc import Iterable

import typer

from ppod_cli.app.dataclass_options import is_given
from ppod_data.errors import ConfigError


def refuse_unread(context: typer.Context, names: Iterable[str], reason: str) -> None:
    """Raise ConfigError if the user gave one of these parameters: its option, and why nothing reads it."""
    for parameter in context.command.params:
        if parameter.name in names and is_given(context, parameter.name):
            raise ConfigError(f"{max(parameter.opts, key=len)} {reason}")
