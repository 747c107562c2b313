"""`ppod-pair combine`: one table of pairs from several."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from ppod_cli.app.hints import say_train
from ppod_cli.app.options import Config, DatasetFolder, Debug, Json, command
from ppod_cli.app.output import summary
from ppod_data.errors import ConfigError

if TYPE_CHECKING:
    from ppod_data.labels.combine import CombineSummary

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
    label_smoothing: Annotated[
        float, typer.Option(min=0.0, help="S makes (1 - S) p + S / 2 of a label p.", metavar="S")
    ] = 0.0,
    drop_contradictory: Annotated[
        bool,
        typer.Option(
            "--drop-contradictory", help="Leave out pairs that are judged either way, instead of their mean."
        ),
    ] = False,
    validation_share: Annotated[
        float | None,
        typer.Option(
            help="Write NAME-train and NAME-validation, this share of the prompts in the second.",
            show_default="one table",
            metavar="X",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split by prompt.", metavar="SEED")] = 0,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Combine tables of pairs: pairs/NAME.parquet, with one row for two images.

    Where tables judge the same images, by id or by pixels, the label is the mean, weighted by the tables' weights. The
    pairs of a prompt are never on both sides of a split.
    """
    from ppod_data import Dataset
    from ppod_data.library.editing import combine_pairs

    with summary(as_json) as report:
        opened = Dataset.open(dataset)
        done = combine_pairs(
            opened,
            [_source(text) for text in pairs],
            name=name,
            label_smoothing=label_smoothing,
            drop_contradictory=drop_contradictory,
            validation_share=validation_share,
            seed=seed,
        )
        lines = [*_say(dataset, done), *say_train(dataset, opened, next(iter(done.tables)))]
        report({"dataset": dataset, "name": name} | dataclasses.asdict(done), lines)


def _source(text: str) -> tuple[str, float]:
    name, separator, weight = text.partition("=")
    try:
        return name, float(weight) if separator else 1.0
    except ValueError:
        raise ConfigError(f"--pairs {text}: {weight!r} is no weight: write NAME=2") from None


def _say(dataset: str, done: "CombineSummary") -> list[str]:
    lines = [f"{dataset}/pairs/{name}.parquet: {count:,} pairs" for name, count in done.tables.items()]
    left_out = {
        "rows merged with another of the same images": done.num_merged,
        "of one image twice": done.num_same_images,
        "without a preference": done.num_undecided,
        "contradictory": done.num_dropped,
    }
    counted = [f"{number:,} {what}" for what, number in left_out.items() if number]
    if counted:
        lines.append(f"left out: {', '.join(counted)}")
    if done.num_contradictory and not done.num_dropped:
        lines.append(f"{done.num_contradictory:,} pairs are judged either way: their labels are means")
    return lines
