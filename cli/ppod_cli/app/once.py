"""Refuse an option that is given twice: the last value would win in silence."""

from collections import Counter
from typing import Any

from typer.core import TyperCommand

from ppod_data.errors import ConfigError


class OnceCommand(TyperCommand):
    """A command whose options take one value unless they are declared to take many."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            ConfigError: an option of a single value is given more than once.
        """
        if not ctx.resilient_parsing:
            refuse_repeats(self.make_parser(ctx).parse_args(args=list(args))[2])
        return super().parse_args(ctx, args)


def refuse_repeats(order: list[Any]) -> None:
    """Raise `ConfigError` for the first parameter that occurs twice in `order` and takes one value.

    Args:
        order: the parameters of a command line in the order in which they were given.
    """
    for param, count in Counter(order).items():
        if count > 1 and not param.multiple:
            name = max(param.opts, key=len)
            raise ConfigError(f"{name} is given {count} times, and takes one value: give it once")
