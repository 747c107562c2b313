"""Options declared once, as fields of frozen dataclasses.

The metadata of a field is its help, bounds and default in words. The command line, the keys of a configuration file
and the checks of values are derived from it:

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        batch_size: int = option(64, "Images in one network call.", panel="Compute", metavar="N", min=1)

    check_options(Settings(batch_size=0))  # ConfigError: batch_size must be at least 1, not 0
"""

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ppod_data.errors import ConfigError

_KEY = "option"


@dataclass(frozen=True, kw_only=True)
class Option:
    """What is known of a field beside its type."""

    help: str
    panel: str | None = None
    """Heading under which --help lists the option."""
    metavar: str | None = None
    name: str | None = None
    """Name of the option and of the configuration key; None for the field's own."""
    flag: str | None = None
    """Declaration of a truth value, such as --check/--no-check; None for --name."""
    shown_default: str | None = None
    """Default in words, of a field whose default depends on the model, the objective or the data."""
    min: float | None = None
    max: float | None = None
    above: float | None = None
    """Exclusive bound, as `below`."""
    below: float | None = None
    reason: str = ""
    """Why `above` or `below` is exclusive, for the error."""
    may_be_infinite: bool = False
    is_prompt_file: bool = False
    """Whether the option names a file of prompts, which the field holds as a tuple."""


def option(default: Any, help: str, **known: Any) -> Any:
    """Return a dataclass field with an `Option`, whose other values are `known`."""
    return field(default=default, metadata={_KEY: Option(help=help, **known)})


def same_option(settings: type, name: str, **changed: Any) -> Any:
    """Return a field like the field `name` of another dataclass; `changed` replaces parts of its `Option`."""
    other = next(one for one in dataclasses.fields(settings) if one.name == name)
    return field(default=other.default, metadata={_KEY: dataclasses.replace(other.metadata[_KEY], **changed)})


def options_of(settings: type) -> dict[str, Option]:
    """Return the options of a dataclass by field name; a field without an `Option` is left out."""
    return {one.name: one.metadata[_KEY] for one in dataclasses.fields(settings) if _KEY in one.metadata}


def value_type(annotation: Any) -> Any:
    """Return an annotation without None."""
    if get_origin(annotation) in (Union, UnionType):
        return next(one for one in get_args(annotation) if one is not NoneType)
    return annotation


def check_options(settings: Any, *, checked: Collection[str] = ()) -> None:
    """Check every field that has an option against its type and bounds. None is not checked.

    Args:
        checked: fields that the caller has checked already, by a wider rule than their type.

    Raises:
        ConfigError: names the first field that is wrong, its rule and its value.
    """
    types = get_type_hints(type(settings))
    for name, known in options_of(type(settings)).items():
        value = getattr(settings, name)
        if (
            value is not None
            and name not in checked
            and (rule := _broken_rule(value, value_type(types[name]), known))
        ):
            raise ConfigError(f"{name} {rule}")


def _broken_rule(value: Any, wanted: Any, known: Option) -> str:
    """Return how a value breaks its option's rule; "" if it does not."""
    if get_origin(wanted) is Literal:
        choices = get_args(wanted)
        return "" if value in choices else f"{value} is unknown: {', '.join(choices)} are known"
    kinds = {int: (Integral, "a whole number"), float: (Real, "a number")}
    if wanted not in kinds:
        return ""
    kind, words = kinds[wanted]
    if not isinstance(value, kind) or isinstance(value, bool):
        return f"must be {words}, not {value!r}"
    if not is_within(float(value), known):
        return f"must be {bounds_in_words(known)}, not {value}"
    return "" if known.may_be_infinite or math.isfinite(value) else f"must be finite, not {value}"


def is_within(value: float, known: Option) -> bool:
    """Return whether a number keeps the bounds of an option; NaN keeps none."""
    return (
        (known.min is None or value >= known.min)
        and (known.max is None or value <= known.max)
        and (known.above is None or value > known.above)
        and (known.below is None or value < known.below)
    )


def bounds_in_words(known: Option) -> str:
    """Return the bounds of an option, such as "at least 0 and below 1"."""
    bounds = {"at least": known.min, "above": known.above, "at most": known.max, "below": known.below}
    return " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)
