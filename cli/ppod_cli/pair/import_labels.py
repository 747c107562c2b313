"""`ppod-pair import` and `ppod-pair agreement`: people's labels."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ppod_cli.app.dataclass_options import Shown, Without, given_options
from ppod_cli.app.hints import next_line, say_train
from ppod_cli.app.options import MODEL_OF_GIVEN_IMAGES, DatasetFolder, command
from ppod_cli.app.output import Outcome
from ppod_cli.app.progress import progress
from ppod_cli.app.unread import refuse_unread
from ppod_data.cluster.settings import DeviceSettings
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.labels.settings import ImportOptions, LabelFormat
from ppod_data.support.formatting import counted

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

GivenImages = Annotated[
    SamplingSettings,
    Without(("negative_prompt", "num_images_per_prompt", "initial_noise")),
    Shown(
        {"guidance_scale": "1; the model's own where it is a condition"},
        {"guidance_scale": "Classifier-free guidance of the policy that is trained, 1 is none."},
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
        LabelFormat,
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
    model: Annotated[ModelSource, MODEL_OF_GIVEN_IMAGES],
    settings: GivenImages,
    device: DeviceSettings,
) -> Outcome:
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
    from ppod_data.library.lines.data import given_images_lines
    from ppod_data.library.lines.labels import imported_lines

    table = name if name is not None else format
    check_labels_name(table)
    made = None
    if model.model is None:
        _refuse_chain_options(context)
    else:
        loaded = model.load(device.resolved())
        with progress(0, "images", "images") as display:
            made = images_of_labels(
                dataset,
                file,
                loaded,
                settings,
                format=format,
                license=options.license,
                skip_bad=options.skip_bad,
                progress=display,
            )
    opened = Dataset.open(dataset) if made else known_dataset(dataset)
    with progress(0, f"import {table}", "records") as display:
        done = import_file(opened, str(file), format=format, name=table, options=options, progress=display)
    figures = {"dataset": dataset, "name": table, "num_skipped": done.num_skipped}
    figures["made"] = dataclasses.asdict(made) if made else None
    lines = given_images_lines(dataset, len(opened.spec.prompts), made) if made else []
    lines += imported_lines(dataset, table, done)
    lines += say_train(dataset, opened, table) if done.num_pairs else []
    return Outcome(figures | dataclasses.asdict(done), lines)


def _refuse_chain_options(context: typer.Context) -> None:
    """Raise ConfigError for an option that nothing reads without --model."""
    for settings in (ModelSource, SamplingSettings, DeviceSettings):
        names = given_options(context, settings)
        refuse_unread(context, names, "says how chains of new images are made: give --model as well")


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
    dimension: Annotated[
        str | None,
        typer.Option(
            help="Labels on this question, if the table has several.",
            show_default="overall, or the only one",
            metavar="NAME",
        ),
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(
            help="Write the people's Bradley-Terry scores of the images to scores/NAME.",
            show_default="not written",
            metavar="NAME",
        ),
    ] = None,
) -> Outcome:
    """Say how far people agree: with each other, with each reward, and with other tables of labels.

    Raw agreement, Fleiss' kappa and Krippendorff's alpha of pairs with several answers; ties; a bias to one side; and
    for each reward accuracy, Kendall's tau, and the temperature that makes its margins probabilities; for each other
    table of labels, such as a judge's, the share of pairs with the same winner, and alpha.
    """
    from ppod_data import agreement as agreement_of
    from ppod_data.library.lines.agreement import agreement_lines

    found = agreement_of(dataset, labels, rewards=reward, dimension=dimension, scores=scores)
    figures = {"dataset": dataset, "labels": labels} | dataclasses.asdict(found)
    title = f"{dataset}/labels/{labels}.parquet"
    lines = agreement_lines(title, found.dimension, figures["people"], figures["rewards"], figures["others"])
    if written := found.scores:
        lines += [
            f"{dataset}/scores/{written.name}: {counted(written.num_scored, 'image')} scored by people, "
            f"{written.num_unjudged:,} compared by nobody",
            _rank_line(dataset, written.name),
        ]
    return Outcome(figures, lines)


def _rank_line(dataset: str, scores: str) -> str:
    """Return the line that ranks by a score table, under a name of its own if the labels' pairs have that name."""
    from ppod_data import Dataset

    taken = scores in Dataset.open(dataset).pair_names()
    name = ("--name", f"{scores}-scores") if taken else ()
    return next_line("ppod-pair", "rank", dataset, "--reward", scores, *name)
