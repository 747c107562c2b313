"""`ppod-data info`, `card`, `export`, `merge`, `push`, `pull`: look at a data set, and share it."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from ppod_cli.app.hints import next_line, say_score, say_train
from ppod_cli.app.options import DatasetFolder
from ppod_cli.app.output import Outcome
from ppod_cli.app.progress import progress
from ppod_cli.app.read_prompts import local_only
from ppod_cli.app.unread import refuse_unread
from ppod_data.support.formatting import amount, counted

INFO_EXAMPLES = (
    "ppod-data info data",
    "ppod-data info data --html data.html",
    "ppod-data info data --json",
)
CARD_EXAMPLES = ("ppod-data card data",)
EXPORT_EXAMPLES = (
    "ppod-data export data --out images",
    "ppod-data export data --out images --layout flat",
)

MERGE_EXAMPLES = ("ppod-data merge both.json online/stage-01/data online/stage-02/data",)
PUSH_EXAMPLES = (
    "ppod-data push data s3://bucket/animals",
    "ppod-data push data hf://datasets/OWNER/NAME --public",
)
PULL_EXAMPLES = (
    "ppod-data pull s3://bucket/animals data",
    "ppod-data pull hf://datasets/OWNER/NAME data",
)

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="hf://datasets/OWNER/NAME, or a folder of any store of fsspec.",
        show_default=False,
    ),
]


def info(
    context: typer.Context,
    dataset: DatasetFolder,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also write a page to look at: images, pairs, histograms; one file that needs no network.",
            metavar="FILE",
            dir_okay=False,
            callback=local_only,
        ),
    ] = None,
    max_images: Annotated[
        int,
        typer.Option(
            min=1,
            help="Images in the page, at most 50 kB each, evenly chosen; all where there are fewer.",
            metavar="N",
        ),
    ] = 200,
) -> Outcome:
    """Say what is in a data set: how it was made, how much of it is there, its scores and pairs.

    Histograms of the scores are from the lowest score to the highest. Two score tables agree on two images of a
    prompt where both prefer the same one; a score agrees with a pair where it is higher for the chosen image.
    """
    if html is None:
        refuse_unread(context, {"max_images"}, "is about the page: give --html FILE as well")
    from ppod_data import Dataset
    from ppod_data.library.exporting import describe, write_page
    from ppod_data.library.lines.overview import overview_lines

    opened = Dataset.open(dataset)
    figures = {"dataset": dataset} | describe(opened)
    lines = overview_lines(opened, figures)
    if not figures["missing_shards"] and not figures["scores"]:
        lines += say_score(opened.root, opened.spec.model)
    if html is not None:
        write_page(opened, html, max_images=max_images)
        lines.append(f"page: {html} ({amount(html.stat().st_size)})")
        figures["html"] = str(html)
    return Outcome(figures, lines)


def card(dataset: DatasetFolder) -> Outcome:
    """Write README.md and croissant.json anew: the cards of a data set for people and for programs.

    ppod-gen, ppod-score and ppod-pair do it as well. With the README, datasets.load_dataset(DATASET, NAME) loads each
    table by its name: samples, scores-NAME, pairs-NAME.
    """
    from ppod_data.library.exporting import refresh_card

    refresh_card(dataset)
    return Outcome({"dataset": dataset}, [f"{dataset}/README.md, {dataset}/croissant.json"])


def export(
    dataset: DatasetFolder,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the images: a new one.", metavar="DIR", file_okay=False, callback=local_only
        ),
    ],
    layout: Annotated[
        Literal["prompt", "flat"], typer.Option(help="A folder for each prompt, or one for all images.")
    ] = "prompt",
) -> Outcome:
    """Write the images as PNG files that say in themselves that they are generated, by which model, from which prompt.

    They carry the IPTC digital source type of generated media as XMP; metadata.jsonl beside them makes the folder
    readable for datasets.load_dataset("imagefolder", data_dir=DIR). Run the same command again to go on after an
    interruption. Images that were given to the data set are written as they came, with what they say of themselves.
    """
    from ppod_data.library.exporting import export_images

    with progress(0, "export", "images") as display:
        done = export_images(dataset, out, layout=layout, progress=display)
    there = f", {done.num_skipped:,} already there" if done.num_skipped else ""
    figures = {"dataset": dataset, "out": str(out)} | dataclasses.asdict(done)
    return Outcome(figures, [f"{out}: {counted(done.num_images, 'image')}{there}"])


def merge(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The file to write.", show_default=False, callback=local_only),
    ],
    datasets: Annotated[
        list[str], typer.Argument(metavar="DATASET", help="Folders or URLs of data sets.", show_default=False)
    ],
) -> Outcome:
    """Name several data sets of one sampler in one small file, which ppod-train offline takes as a DATASET.

    Nothing is copied: the file holds the URLs, and the folders' paths as seen from its own folder.
    """
    from ppod_data.library.editing import merge as merge_datasets
    from ppod_data.library.editing import training_table

    parts, repeats = merge_datasets(out, datasets)
    count = sum(part.spec.num_samples for part in parts)
    same = f", {repeats:,} of them the same image as another: training leaves these out" if repeats else ""
    lines = [f"{out}: {counted(len(parts), 'data set')}, {counted(count, 'image')}{same}"]
    table = training_table(parts)
    lines += say_train(str(out), parts[0], table) if table is not None else []
    figures = {"out": str(out), "datasets": datasets, "num_samples": count, "num_repeated": repeats}
    return Outcome(figures, lines)


def push(
    dataset: DatasetFolder,
    url: Url,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository on the Hub visible to everyone.")
    ] = False,
) -> Outcome:
    """Copy a data set to a store: checked on the way, and never to be read as whole when it is half there.

    Run the same command again to go on after an interruption, or to add what is new. Stores other than the Hub need
    their fsspec package: s3fs, gcsfs, adlfs.
    """
    from ppod_data import push as push_dataset
    from ppod_data.library.lines.data import copied_line

    with progress(0, "push", "files") as display:
        done = push_dataset(dataset, url, public=public, progress=display)
    figures = {"dataset": dataset, "url": url} | dataclasses.asdict(done)
    return Outcome(figures, [copied_line(url, done)])


def pull(
    url: Url,
    dataset: DatasetFolder,
) -> Outcome:
    """Copy a data set from a store into a folder; every file is checked, and a damaged one fetched again.

    Run the same command again to go on after an interruption, or to get what is new.
    """
    from ppod_data.library.lines.data import copied_line
    from ppod_data.library.sharing import fetch

    with progress(0, "pull", "files") as display:
        done = fetch(url, dataset, progress=display)
    lines = [copied_line(dataset, done), next_line("ppod-data", "info", dataset)]
    return Outcome({"url": url, "dataset": dataset} | dataclasses.asdict(done), lines)
