"""Options of a command from the fields of frozen dataclasses (`ppod_data.support.options`).

A parameter of a command whose type is such a dataclass becomes one option for each field. The command is called with
the dataclass, built from the values:

    @command(commands, examples=())
    def offline(settings: TrainSettings) -> Outcome: ...

An option of a field whose default depends on something else is None unless it is given; then the dataclass decides.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from ppod_cli.app.read_prompts import listed_prompts, local_only
from ppod_data.support.options import Option, bounds_in_words, is_within, options_of, value_type


@dataclass(frozen=True)
class Without:
    """Fields of a dataclass that are no options of a command: `Annotated[TrainSettings, Without({"patience"})]`."""

    names: Collection[str]


@dataclass(frozen=True)
class Shown:
    """What --help of a command shows in place of the fields' own words; None shows no default."""

    defaults: Mapping[str, str | None]
    help: Mapping[str, str] = dataclasses.field(default_factory=dict)


def given_options(context: typer.Context, settings: type) -> dict[str, Any]:
    """Return the values of a dataclass's options that the user gave, by field."""
    names = {name: known.name or name for name, known in options_of(settings).items()}
    return {name: context.params[option] for name, option in names.items() if is_given(context, option)}


def is_given(context: typer.Context, parameter: str) -> bool:
    """Return whether the user gave a parameter, on the command line or in a file."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name != "DEFAULT"


def expand_dataclasses(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that Typer understands, with an option for each field of its dataclass parameters.

    A field of the same name as another parameter of the command takes that parameter's value. Fields of the same name
    in two dataclasses share one option, that of the first.
    """
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters
    groups = {name: _fields(hints[name]) for name in own if dataclasses.is_dataclass(_plain(hints[name]))}
    if not groups:
        return command
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in own.items():
        if name not in groups:
            parameters[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
            continue
        defaults = {field.name: field.default for field in dataclasses.fields(_plain(hints[name]))}
        types = get_type_hints(_plain(hints[name]))
        for field, known in groups[name].items():
            option = known.name or field
            if (option not in own or option in groups) and option not in parameters:
                parameters[option] = _parameter(option, known, types[field], defaults[field])

    @functools.wraps(command)
    def expanded(**values: Any) -> Any:
        built = {name: build_settings(hints[name], values) for name in groups}
        return command(**{name: built[name] if name in built else values[name] for name in own})

    annotations = {name: parameter.annotation for name, parameter in parameters.items()}
    vars(expanded)["__signature__"] = inspect.Signature(list(parameters.values()))
    expanded.__annotations__ = annotations
    return expanded


def _plain(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _fields(annotation: Any) -> Mapping[str, Option]:
    """Return the options of a dataclass parameter by field, except those that it is `Without`."""
    left_out = {name for part in get_args(annotation) if isinstance(part, Without) for name in part.names}
    fields = {name: known for name, known in options_of(_plain(annotation)).items() if name not in left_out}
    for part in get_args(annotation):
        if isinstance(part, Shown):
            for name, words in part.defaults.items():
                if name in fields:
                    fields[name] = dataclasses.replace(fields[name], shown_default=words)
            for name, text in part.help.items():
                fields[name] = dataclasses.replace(fields[name], help=text)
    return fields


def _parameter(name: str, known: Option, annotation: Any, default: Any) -> inspect.Parameter:
    value: Any = Path if known.is_prompt_file else value_type(annotation)
    is_list = get_origin(value) is tuple
    value = list[str] if is_list else value
    flag = known.flag or f"--{name.replace('_', '-')}"
    declared = typer.Option(
        *([flag] if value is bool else []),
        help=known.help,
        rich_help_panel=known.panel,
        metavar=known.metavar,
        show_default=known.shown_default or True,
        callback=local_only if value is Path else _strict(known),
        min=_bound(value, known.min, known.above),
        max=_bound(value, known.max, known.below),
    )
    depends = default is None or known.shown_default is not None or is_list
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if depends else default,
        annotation=Annotated[value | None if depends else value, declared],
    )


def _bound(value: type, *bounds: float | None) -> Any:
    """Return the bound that is given, as the type of the option, which its help shows; None without one."""
    return next((value(bound) for bound in bounds if bound is not None), None)


def _strict(known: Option) -> Callable[[Any], Any] | None:
    """Return the callback that refuses an exclusive bound, which Typer does not have."""
    if known.above is None and known.below is None:
        return None

    exclusive = bounds_in_words(dataclasses.replace(known, min=None, max=None))

    def check(value: float | None) -> float | None:
        if value is not None and not is_within(value, known):
            raise typer.BadParameter(f"must be {exclusive}, not {value:g}{known.reason}")
        return value

    return check


def build_settings(annotation: Any, values: Mapping[str, Any]) -> Any:
    """Build the dataclass of a parameter from a command's values by option name. None is not given."""
    fields = _fields(annotation)
    given = {name: values[known.name or name] for name, known in fields.items()}
    for name, known in fields.items():
        if known.is_prompt_file:
            given[name] = listed_prompts(given[name])
    return _plain(annotation)(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
            if value is not None
        }
    )
