"""`ppod-pair import` and `ppod-pair agreement`: people's labels."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ppod_cli.app.agreement import say_agreement
from ppod_cli.app.hints import next_line, say_train
from ppod_cli.app.options import NEW_MODEL, Config, DatasetFolder, Debug, Device, Json, command
from ppod_cli.app.output import summary
from ppod_cli.app.progress import progress
from ppod_cli.pair.given_images import (
    NOT_OF_GIVEN_IMAGES,
    ForeignGuidance,
    ForeignModel,
    refuse_chain_options,
    say_made,
)
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.labels.settings import ImportOptions
from ppod_data.support.processes import resolve_device

if TYPE_CHECKING:
    from ppod_data.labels.importing import ImportSummary


_IMPORT_EXAMPLES = (
    "ppod-pair import data answers.csv --format table",
    "ppod-pair import data export.json --format label-studio --name experts",
    "ppod-pair import data votes.parquet --format rapidata --skip-bad --keep-ties",
    "ppod-pair import new pictures --format folders \\\n"
    "  --model black-forest-labs/FLUX.2-klein-base-4B --height 512 --width 512",
    "ppod-pair import new pickapic.parquet --format pickapic \\\n"
    "  --model stable-diffusion-v1-5/stable-diffusion-v1-5 --num-inference-steps 50",
)
_AGREEMENT_EXAMPLES = (
    "ppod-pair agreement data --labels experts",
    "ppod-pair agreement data --labels experts --reward scenes --json",
    "ppod-pair agreement data --labels experts --scores people",
)

Dimension = Annotated[
    str | None,
    typer.Option(
        help="Labels on this question, where the file has several.",
        show_default="overall, or the only one",
        metavar="NAME",
    ),
]


def add_commands(commands: typer.Typer) -> None:
    """Add the commands of this file to `ppod-pair`."""
    command(commands, name="import", examples=_IMPORT_EXAMPLES)(import_labels)
    command(commands, examples=_AGREEMENT_EXAMPLES)(agreement)


def import_labels(
    context: typer.Context,
    dataset: DatasetFolder,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="File or folder of labels: Parquet, JSON, JSON lines, CSV; for folders, that of winners and losers.",
            show_default=False,
        ),
    ],
    format: Annotated[
        Literal[
            "pickapic",
            "hpdv2",
            "hpdv3",
            "imagerewarddb",
            "open-image-preferences",
            "rapidata",
            "richhf",
            "d3po",
            "folders",
            "label-studio",
            "argilla",
            "ppod-label",
            "ppod-judge",
            "table",
        ],
        typer.Option(
            help="Whose form the file has; table is our plain one, of docs/labels.md; ppod-label and "
            "ppod-judge are of ppod-pair label and judge."
        ),
    ],
    *,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the labels and their pairs.", show_default="the format's name", metavar="NAME"
        ),
    ] = None,
    options: ImportOptions,
    model: ForeignModel = None,
    source: Annotated[ModelSource, NEW_MODEL],
    settings: Annotated[SamplingSettings, NOT_OF_GIVEN_IMAGES],
    guidance_scale: ForeignGuidance = None,
    device: Device = "auto",
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Import people's labels: labels/NAME.parquet, and pairs/NAME.parquet from them.

    Images are found by their sample_id, a file name that is one, the hash of their pixels, or their pixels. Several
    labels of two images become one pair whose label is the share of the votes. A wrong row stops the import before
    anything is written.

    Labels on images that no model of yours made: with --model, DATASET is made of the images in the file, or beside
    it, each with a denoising chain that is drawn onto it. Run the same command again to go on after an interruption.
    """
    from ppod_data import Dataset
    from ppod_data import import_labels as import_file
    from ppod_data.library.labelling import check_labels_name, images_of_labels, known_dataset

    table = name if name is not None else format
    check_labels_name(table)
    if model is None:
        refuse_chain_options(context)
    with summary(as_json) as report:
        made = None
        if model is not None:
            loaded = source.load(resolve_device(device))
            with progress(0, "images", "images") as shown:
                made = images_of_labels(
                    dataset,
                    file,
                    loaded,
                    settings,
                    format=format,
                    license=options.license,
                    skip_bad=options.skip_bad,
                    progress=shown,
                )
        opened = Dataset.open(dataset) if made else known_dataset(dataset)
        with progress(0, f"import {table}", "records") as shown:
            done = import_file(opened, str(file), format=format, name=table, options=options, progress=shown)
        figures = {"dataset": dataset, "name": table, "num_skipped": done.num_skipped}
        figures["made"] = dataclasses.asdict(made) if made else None
        lines = say_made(dataset, len(opened.spec.prompts), made) if made else []
        lines += _say_imported(dataset, table, done)
        lines += say_train(dataset, opened, table) if done.num_pairs else []
        report(figures | dataclasses.asdict(done), lines)


def _say_imported(dataset: str, name: str, done: "ImportSummary") -> list[str]:
    lines = [
        f"{dataset}/labels/{name}.parquet: {done.num_preferences + done.num_ties:,} labels from "
        f"{done.num_records:,} records, {done.num_ties:,} of them ties"
    ]
    skipped = [f"{count:,} {reason}" for reason, count in done.skipped.items()]
    skipped += [f"{done.num_ratings_alone:,} rated alone in their group"] if done.num_ratings_alone else []
    if skipped:
        lines.append(f"left out: {', '.join(skipped)}")
    if done.num_rejected:
        lines.append(
            f"{dataset}/labels/{name}.rejects.jsonl: {done.num_rejected:,} rejected, with the reason"
        )
    if not done.num_pairs:
        return [
            *lines,
            "no pairs: there are ties and even votes only; --keep-ties takes them as labels of 0.5",
        ]
    pairs = f"{dataset}/pairs/{name}.parquet: {done.num_pairs:,} pairs on {done.dimension}"
    notes = {"with votes for either image": done.num_contradictory, "with even votes": done.num_undecided}
    counted = [f"{number:,} pairs {what}" for what, number in notes.items() if number]
    return [*lines, pairs + (f"; {', '.join(counted)}" if counted else "")]


def agreement(
    dataset: DatasetFolder,
    labels: Annotated[str, typer.Option(help="Table of labels: a name under labels/.", metavar="NAME")],
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="Score tables to compare with; give it once for each.",
            show_default="all but people's own",
            metavar="NAME",
        ),
    ] = None,
    dimension: Dimension = None,
    scores: Annotated[
        str | None,
        typer.Option(
            help="Write the people's Bradley-Terry scores of the images to scores/NAME.",
            show_default="not written",
            metavar="NAME",
        ),
    ] = None,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say how far people agree: with each other, with each reward, and with other tables of labels.

    Raw agreement, Fleiss' kappa and Krippendorff's alpha of pairs with several answers; ties; a bias to one side; and
    for each reward accuracy, Kendall's tau, and the temperature that makes its margins probabilities; for each other
    table of labels, such as a judge's, the share of pairs with the same winner, and alpha.
    """
    from ppod_data import agreement as agreement_of

    with summary(as_json) as report:
        found = agreement_of(dataset, labels, rewards=reward, dimension=dimension, scores=scores)
        figures = {"dataset": dataset, "labels": labels} | dataclasses.asdict(found)
        where = f"{dataset}/labels/{labels}.parquet"
        lines = say_agreement(
            where, found.dimension, figures["people"], figures["rewards"], figures["others"]
        )
        written = found.scores
        if written:
            lines.append(
                f"{dataset}/scores/{written.name}: {written.num_scored:,} images scored by people, "
                f"{written.num_unjudged:,} compared by nobody"
            )
            lines.append(next_line("ppod-pair", "rank", dataset, "--reward", written.name))
        report(figures, lines)
