"""Options that several commands share, and the commands' decorators."""

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ppod_cli.app.config import load_config
from ppod_cli.app.dataclass_options import Shown, expand_dataclasses
from ppod_cli.app.once import Group, OnceCommand
from ppod_cli.app.output import Outcome, summary
from ppod_cli.app.read_prompts import local_only

_PLAIN_MODEL = {"revision": None, "variant": None, "adapter": None, "compute_dtype": "fp32"}
NEW_MODEL = Shown({"model": "scenes"} | _PLAIN_MODEL)
"""Defaults of a `ModelSource` where no data and no policy name a model."""
MODEL_OF_GIVEN_IMAGES = Shown(
    {"model": "the images are DATASET's own"} | _PLAIN_MODEL,
    {
        "model": "Make DATASET of the images in the file, for this model: scenes, a pipeline folder, or an id on the "
        "Hugging Face Hub."
    },
)
Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file with options of this command under the same names; options given here win.",
        metavar="FILE",
        callback=load_config,
        is_eager=True,
        rich_help_panel="Running",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print a machine-readable summary on stdout, and nothing else there.",
        rich_help_panel="Running",
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel="Running")
]


def _show_version(asked: bool) -> None:
    if asked:
        import ppod_data

        typer.echo(f"ppod {ppod_data.__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version",
        help="Print the version and exit.",
        callback=_show_version,
        is_eager=True,
    ),
]
_EVERYWHERE = {"config": (Config, None), "as_json": (Json, False), "debug": (Debug, False)}
"""Options of every command: annotation and default."""
Report = Callable[[Outcome], None]
"""Prints a summary."""
Name = Annotated[str, typer.Option(help="Name of the labels.", metavar="NAME")]
Answers = Annotated[
    Path | None,
    typer.Option(
        help="Local folder of the answers, for a data set in a store.",
        show_default="DATASET/labels/NAME.answers",
        metavar="DIR",
    ),
]
Out = Annotated[
    Path,
    typer.Option(help="Folder for what comes out.", metavar="DIR", show_default=False, callback=local_only),
]
Host = Annotated[
    str,
    typer.Option(
        help="Address to serve on, 0.0.0.0 for other machines too.",
        metavar="HOST",
        rich_help_panel="Serving",
    ),
]
Port = Annotated[
    int,
    typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", metavar="N", rich_help_panel="Serving"),
]
DatasetFolder = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="Folder of the data set, or its URL: s3://, gs://, az://; hf:// to read.",
        show_default=False,
    ),
]


def new_commands(help: str | None = None, examples: Sequence[str] = ()) -> typer.Typer:
    """Return a Typer app with the conventions of ppod; `entry_point` makes a console script of it.

    With `help`, the app has sub-commands, even if there is only one.
    """
    commands = typer.Typer(
        cls=Group,
        help=help,
        epilog=_epilog(examples),
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    if help is not None:
        commands.callback()(_only_version)
    return commands


def _only_version(version: Version = False) -> None:
    """Take the options of a group itself."""


def command(
    commands: typer.Typer, *, name: str | None = None, examples: Sequence[str]
) -> Callable[[Callable[..., Outcome | None]], Callable[..., None]]:
    """Add the decorated function to `commands`; its docstring and the runnable `examples` are the help.

    The function returns the summary that is printed, None for none. A parameter whose type is a dataclass becomes an
    option for each field (`ppod_cli.app.dataclass_options`). Every command has --config, --json and --debug.
    """

    def add(function: Callable[..., Outcome | None]) -> Callable[..., None]:
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        text = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
        printed = _with_summary(expand_dataclasses(function))
        commands.command(name, cls=OnceCommand, help=text, epilog=_epilog(examples))(printed)
        return printed

    return add


def _with_summary(command: Callable[..., Outcome | None]) -> Callable[..., None]:
    """Return a command that prints what `command` returns, with the options that every command has.

    A parameter `report` of `command` is no option: it is the function that prints a summary before the end.
    """
    hints = get_type_hints(command, include_extras=True)
    own = {
        name: parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command).parameters.items()
    }
    options = {name: parameter for name, parameter in own.items() if name != "report"}
    for name, (annotation, default) in _EVERYWHERE.items():
        options.setdefault(
            name,
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default),
        )

    @functools.wraps(command)
    def printed(**values: Any) -> None:
        with summary(values["as_json"]) as report:
            given = values | {"report": report}
            outcome = command(**{name: given[name] for name in own})
            if outcome is not None:
                report(outcome)
        if outcome is not None and outcome.exit_code:
            raise typer.Exit(outcome.exit_code)

    vars(printed)["__signature__"] = inspect.Signature(list(options.values()))
    printed.__annotations__ = {name: parameter.annotation for name, parameter in options.items()}
    return printed


def _epilog(examples: Sequence[str]) -> str:
    return "\n".join(["Examples:", *examples])
