"""The classes of commands: refuse an option that is given twice, and show flags as taking no value."""

from collections import Counter
from typing import Any

from typer.core import TyperCommand, TyperGroup

from ppod_data.errors import ConfigError


class OnceCommand(TyperCommand):
    """A command whose options take one value unless they are declared to take many."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, flags without a value."""
        return flags_without_value(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            ConfigError: an option of a single value is given more than once.
        """
        if not ctx.resilient_parsing:
            refuse_repeats(self.make_parser(ctx).parse_args(args=list(args))[2])
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """A command of sub-commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, flags without a value."""
        return flags_without_value(super().get_params(ctx))


def flags_without_value(params: list[Any]) -> list[Any]:
    """Return the parameters after hiding the `<bool>` of flags in `--help`, which reads like a value to give."""
    for param in params:
        if getattr(param, "is_flag", False) and not param.metavar:
            param.metavar = ""
    return params


def refuse_repeats(order: list[Any]) -> None:
    """Raise `ConfigError` for the first parameter that occurs twice in `order` and takes one value.

    Args:
        order: the parameters of a command line in the order in which they were given.
    """
    for param, count in Counter(order).items():
        if count > 1 and not param.multiple:
            name = max(param.opts, key=len)
            raise ConfigError(f"{name} is given {count} times, and takes one value: give it once")
