"""`ppod-data info`, `card`, `export`, `merge`, `push`, `pull`: look at a data set, and share it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ppod_cli.app.hints import next_line, say_score, say_train
from ppod_cli.app.options import Config, DatasetFolder, Debug, Json, local_only
from ppod_cli.app.output import summary
from ppod_cli.app.progress import progress
from ppod_data.support.formatting import amount

if TYPE_CHECKING:
    from ppod_data import Dataset
    from ppod_data.format.spec import GenerationSpec
    from ppod_data.publish.transfer import TransferSummary

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
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what is in a data set: how it was made, how much of it is there, its scores and pairs.

    Histograms of the scores are from the lowest score to the highest. Two score tables agree on two images of a
    prompt where both prefer the same one; a score agrees with a pair where it is higher for the chosen image.
    """
    from ppod_data import Dataset
    from ppod_data.library.exporting import describe, write_page

    with summary(as_json) as report:
        opened = Dataset.open(dataset)
        figures = describe(opened)
        lines = _say_info(opened, figures)
        if html is not None:
            write_page(opened, html, max_images=max_images)
            lines.append(f"page: {html} ({amount(html.stat().st_size)})")
        page = {} if html is None else {"html": str(html)}
        report({"dataset": dataset, **figures, **page}, lines)


def card(dataset: DatasetFolder, config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Write README.md and croissant.json anew: the cards of a data set for people and for programs.

    ppod-gen, ppod-score and ppod-pair do it as well. With the README, datasets.load_dataset(DATASET, NAME) loads each
    table by its name: samples, scores-NAME, pairs-NAME.
    """
    from ppod_data.library.exporting import refresh_card

    with summary(as_json) as report:
        refresh_card(dataset)
        report({"dataset": dataset}, [f"{dataset}/README.md, {dataset}/croissant.json"])


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
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the images as PNG files that say in themselves that they are generated, by which model, from which prompt.

    They carry the IPTC digital source type of generated media as XMP; metadata.jsonl beside them makes the folder
    readable for datasets.load_dataset("imagefolder", data_dir=DIR). Run the same command again to go on after an
    interruption. Images that were given to the data set are written as they came, with what they say of themselves.
    """
    from ppod_data.library.exporting import export_images

    with summary(as_json) as report:
        with progress(0, "export", "images") as shown:
            done = export_images(dataset, out, layout=layout, progress=shown)
        line = f"{out}: {done.num_images:,} images" + (
            f", {done.num_skipped:,} were there" if done.num_skipped else ""
        )
        report({"dataset": dataset, "out": str(out), **dataclasses.asdict(done)}, [line])


def merge(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The file to write.", show_default=False, callback=local_only),
    ],
    datasets: Annotated[
        list[str], typer.Argument(metavar="DATASET", help="Folders or URLs of data sets.", show_default=False)
    ],
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Name several data sets of one sampler in one small file, which ppod-train offline takes as a DATASET.

    Nothing is copied: the file holds the URLs, and the folders' paths as seen from its own folder.
    """
    from ppod_data.library.editing import merge as merge_datasets
    from ppod_data.library.editing import training_table

    with summary(as_json) as report:
        parts, repeats = merge_datasets(out, datasets)
        count = sum(part.spec.num_samples for part in parts)
        table = training_table(parts)
        train = say_train(str(out), parts[0], table) if table is not None else []
        same = (
            f", {repeats:,} of them the same image as another: training leaves these out" if repeats else ""
        )
        lines = [f"{out}: {len(parts)} data sets, {count:,} images{same}", *train]
        figures = {"out": str(out), "datasets": datasets, "num_samples": count, "num_repeated": repeats}
        report(figures, lines)


def push(
    dataset: DatasetFolder,
    url: Url,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository on the Hub visible to everyone.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Copy a data set to a store: checked on the way, and never to be read as whole when it is half there.

    Run the same command again to go on after an interruption, or to add what is new. Stores other than the Hub need
    their fsspec package: s3fs, gcsfs, adlfs.
    """
    from ppod_data import push as push_dataset

    with summary(as_json) as report:
        with progress(0, "push", "files") as shown:
            done = push_dataset(dataset, url, public=public, progress=shown)
        report({"dataset": dataset, "url": url, **dataclasses.asdict(done)}, [_say_transfer(url, done)])


def pull(
    url: Url,
    dataset: DatasetFolder,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Copy a data set from a store into a folder; every file is checked, and a damaged one fetched again.

    Run the same command again to go on after an interruption, or to get what is new.
    """
    from ppod_data.library.sharing import fetch

    with summary(as_json) as report:
        with progress(0, "pull", "files") as shown:
            done = fetch(url, dataset, progress=shown)
        lines = [_say_transfer(dataset, done), next_line("ppod-data", "info", dataset)]
        report({"url": url, "dataset": dataset, **dataclasses.asdict(done)}, lines)


def _say_transfer(place: str, done: "TransferSummary") -> str:
    there = done.num_files - done.num_copied
    return f"{place}: {done.num_copied:,} files copied ({amount(done.nbytes)})" + (
        f", {there:,} were there" if there else ""
    )


def _say_info(dataset: "Dataset", figures: Mapping[str, Any]) -> list[str]:
    from ppod_data.format.prompts import visible

    spec = dataset.spec
    missing = len(figures["missing_shards"])
    lines = [
        f"{dataset.root}: {figures['num_samples']:,} of {spec.num_samples:,} images of {len(spec.prompts):,} "
        f"prompts, {figures['num_shards']} of {spec.num_shards} shards",
        f"  model          {visible(spec.model)}"
        + (f" with {visible(spec.adapter)}" if spec.adapter else ""),
        f"  chain          {spec.num_inference_steps} steps{_say_window(spec)}, ddim_eta "
        f"{spec.ddim_eta:g}, guidance "
        f"{spec.guidance_scale:g}, {spec.latent_dtype} latents {'x'.join(map(str, spec.latent_shape))}",
        f"  images         {spec.width}x{spec.height} pixels, seed {spec.seed}"
        + ("; the images were given, their chains are drawn onto them" if spec.is_forward else ""),
        f"  licence        {visible(figures['license'])}",
        f"  fingerprint    {figures['fingerprint']}",
    ]
    if figures["num_flagged"] is not None:
        lines.append(f"  flagged        {figures['num_flagged']:,} images by the model's safety checker")
    lines += [f"  {folder:<14} {amount(size)}" for folder, size in figures["bytes"].items() if size]
    for name, one in figures["scores"].items():
        lines += _say_scores(name, one)
    for one in figures["agreement"]:
        if one["same_order"] is not None:
            lines.append(
                f"  {one['a']} and {one['b']}: {one['same_order']:.0%} agree of {one['compared']:,} comparisons"
                + (f", rank correlation {one['spearman']:.2f}" if one["spearman"] is not None else "")
            )
    for name, one in figures["labels"].items():
        lines += _say_labels(name, one)
    for name, one in figures["pairs"].items():
        by = (
            " " + visible(f"by {one['reward']}, {one['strategy']}")
            if one["reward"]
            else f" by {visible(', '.join(one['sources'][:3]))}"
        )
        lines.append(f"  pairs {name}: {one['rows']:,}{by}" + _say_agreement(one["agrees_with"]))
    if missing:
        lines.append(f"{missing} shards are not made yet: run the same ppod-gen command again")
    elif not figures["scores"]:
        lines += say_score(dataset.root, spec.model)
    return lines


def _say_window(spec: "GenerationSpec") -> str:
    return "" if spec.noisy_steps is None else f", noise in {spec.noisy_steps}"


def _say_scores(name: str, one: Mapping[str, Any]) -> list[str]:
    from ppod_data.format.prompts import visible
    from ppod_data.inspect.overview import sparkline
    from ppod_data.support.formatting import spread

    failed = f", {one['failed']:,} failed" if one["failed"] else ""
    lines = [
        f"  scores {name}: {one['rows']:,} by {visible(one['scorer'])} {visible(one['revision'])}{failed}"
    ]
    if one["mean"] is not None:
        shape = one["histogram"]
        low, high = shape["edges"][0], shape["edges"][-1]
        shown = spread(low, high).number
        lines.append(f"    mean {shown(one['mean'])}, median {shown(one['median'])}")
        lines.append(f"    {shown(low)} |{sparkline(shape['counts'])}| {shown(high)}")
    return lines


def _say_labels(name: str, one: Mapping[str, Any]) -> list[str]:
    from ppod_cli.app.agreement import say_agreement
    from ppod_data.format.prompts import visible

    if "problem" in one:
        return [f"  labels {name}: {one['rows']:,} by people; {visible(one['problem'])}"]
    return [
        f"  {line}"
        for dimension, found in one["dimensions"].items()
        for line in say_agreement(f"labels {name}", visible(dimension), found["people"], found["rewards"])
    ]


def _say_agreement(agrees_with: Mapping[str, Any]) -> str:
    known = [f"{name} {one['share']:.0%}" for name, one in agrees_with.items() if one["share"] is not None]
    return f"; agree: {', '.join(known)}" if known else ""
