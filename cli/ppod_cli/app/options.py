"""Options that several commands share, and the commands' decorators."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from ppod_cli.app.config import load_config
from ppod_cli.app.dataclass_options import Shown, expand_dataclasses
from ppod_cli.app.once import Group, OnceCommand


def local_only(path: Path | None) -> Path | None:
    """Return the path of an option that names a local file or folder. Raises ConfigError for a URL."""
    from ppod_data.storage.files import local_path

    return None if path is None else local_path(path)


_SAMPLE = "What to sample"

Prompt = Annotated[
    list[str] | None,
    typer.Option(help="A prompt; repeat the option for more.", metavar="TEXT", rich_help_panel=_SAMPLE),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="One prompt a line, or the prompt column of a .csv, .tsv, .json, .jsonl or .parquet file; UTF-8.",
        metavar="FILE",
        callback=local_only,
        rich_help_panel=_SAMPLE,
    ),
]
PromptColumn = Annotated[
    str | None,
    typer.Option(
        help="Column or key of the prompts in the file.",
        show_default="prompt, or the only one of caption and text",
        metavar="NAME",
        rich_help_panel=_SAMPLE,
    ),
]
DropDuplicates = Annotated[
    bool,
    typer.Option("--drop-duplicates", help="Leave repeated prompts out.", rich_help_panel=_SAMPLE),
]
NEW_MODEL = Shown(
    {"model": "scenes", "revision": None, "variant": None, "adapter": None, "compute_dtype": "fp32"}
)
"""Defaults of a `ModelSource` where no data and no policy name a model."""
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
Device = Annotated[
    str,
    typer.Option(
        help="auto (a GPU where there is one), cpu, cuda, cuda:1.",
        metavar="D",
        rich_help_panel="Running",
    ),
]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(
        help="Work in this process, or on a Ray cluster whose nodes share the folder (pip install ppod\\[ray]).",
        rich_help_panel="Running",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Of the cluster, with --engine ray: auto, HOST:PORT or ray://HOST:PORT.",
        show_default="auto, the cluster that this machine is a part of",
        metavar="ADDRESS",
        rich_help_panel="Running",
    ),
]
Shards = Annotated[
    str | None,
    typer.Option(
        help="Only the shards from A up to, not including, B: for array jobs.",
        metavar="A:B",
        rich_help_panel="Running",
    ),
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
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the decorated function to `commands`; its docstring and the runnable `examples` are the help.

    A parameter whose type is a dataclass becomes an option for each field (`ppod_cli.app.dataclass_options`).
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        text = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
        expanded = expand_dataclasses(function)
        commands.command(name, cls=OnceCommand, help=text, epilog=_epilog(examples))(expanded)
        return expanded

    return add


def _epilog(examples: Sequence[str]) -> str:
    return "\n".join(["Examples:", *examples])
