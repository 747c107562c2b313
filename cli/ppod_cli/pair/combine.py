"""`ppod-pair combine`: one table of pairs from several."""

import dataclasses
from typing import Annotated

import typer

from ppod_cli.app.hints import say_train
from ppod_cli.app.options import DatasetFolder, command
from ppod_cli.app.output import Outcome
from ppod_data.errors import ConfigError
from ppod_data.labels.settings import CombineSettings

_EXAMPLES = (
    "ppod-pair combine data --pairs experts=2 --pairs scenes --name both",
    "ppod-pair combine data --pairs experts --label-smoothing 0.1 --name smooth",
    "ppod-pair combine data --pairs experts --validation-share 0.2 --name split",
)


def add_commands(commands: typer.Typer) -> None:
    """Add the command of this file to `ppod-pair`."""
    command(commands, examples=_EXAMPLES)(combine)


def combine(
    dataset: DatasetFolder,
    pairs: Annotated[
        list[str],
        typer.Option(
            help="Table of pairs, with a weight as NAME=2; give it once for each.", metavar="NAME[=W]"
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the new table.", metavar="NAME")],
    settings: CombineSettings,
) -> Outcome:
    """Combine tables of pairs: pairs/NAME.parquet, with one row for two images.

    Where tables judge the same images, by id or by pixels, the label is the mean, weighted by the tables' weights. The
    pairs of a prompt are never on both sides of a split.
    """
    from ppod_data import Dataset
    from ppod_data.library.editing import combine_pairs
    from ppod_data.library.lines.labels import combined_lines

    opened = Dataset.open(dataset)
    done = combine_pairs(opened, [_source(text) for text in pairs], name=name, settings=settings)
    lines = [*combined_lines(dataset, done), *say_train(dataset, opened, next(iter(done.tables)))]
    return Outcome({"dataset": dataset, "name": name} | dataclasses.asdict(done), lines)


def _source(text: str) -> tuple[str, float]:
    name, separator, weight = text.partition("=")
    try:
        return name, float(weight) if separator else 1.0
    except ValueError:
        raise ConfigError(f"--pairs {text}: {weight!r} is no weight: write NAME=2") from None
