"""`ppod-data info`, `card`, `export`: look at a data set, and show it to others."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ppod_cli.common import Config, DatasetFolder, Debug, Json, amount, summary
from ppod_cli.progress import progress

if TYPE_CHECKING:
    from ppod_data.dataset import Dataset

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


def info(
    dataset: DatasetFolder,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also write a page to look at: images, pairs, histograms; one file that needs no network.",
            metavar="FILE",
            dir_okay=False,
        ),
    ] = None,
    max_images: Annotated[
        int,
        typer.Option(
            min=1,
            help="Images in the page, about 20 kB each, evenly chosen; all where there are fewer.",
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
    from ppod_data.dataset import Dataset
    from ppod_data.files import local_path
    from ppod_data.overview import overview
    from ppod_data.spec import to_json

    with summary(as_json) as report:
        opened = Dataset.open(local_path(dataset))
        figures = overview(opened)
        lines = _say_info(opened, figures)
        if html is not None:
            from ppod_data.viewer import write_viewer

            write_viewer(opened, html, max_images=max_images)
            lines.append(f"page: {html} ({amount(html.stat().st_size)})")
        page = {} if html is None else {"html": str(html)}
        report({"dataset": dataset, "spec": to_json(opened.spec), **figures, **page}, lines)


def card(dataset: DatasetFolder, config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Write README.md and croissant.json anew: the cards of a data set for people and for programs.

    ppod-gen, ppod-score and ppod-pair do it as well. With the README, datasets.load_dataset(DATASET, NAME) loads each
    table by its name: samples, scores-NAME, pairs-NAME.
    """
    from ppod_data.card import write_card
    from ppod_data.files import local_path

    with summary(as_json) as report:
        write_card(local_path(dataset))
        report({"dataset": dataset}, [f"{dataset}/README.md, {dataset}/croissant.json"])


def export(
    dataset: DatasetFolder,
    out: Annotated[
        Path, typer.Option(help="Folder of the images: a new one.", metavar="DIR", file_okay=False)
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
    interruption.
    """
    from ppod_data.dataset import Dataset
    from ppod_data.export import export as export_images
    from ppod_data.files import local_path
    from ppod_data.shards import committed_shards

    with summary(as_json) as report:
        opened = Dataset.open(local_path(dataset))
        total = sum(len(opened.spec.shard_range(shard)) for shard in committed_shards(opened.root))
        with progress(total, "export", "images") as shown:
            done = export_images(opened, out, layout=layout, on_shard=shown.advance)
        line = f"{out}: {done.num_images:,} images" + (
            f", {done.num_skipped:,} were there" if done.num_skipped else ""
        )
        report({"dataset": dataset, "out": str(out), **dataclasses.asdict(done)}, [line])


def _say_info(dataset: "Dataset", figures: Mapping[str, Any]) -> list[str]:
    from ppod_data.prompts import visible

    spec = dataset.spec
    missing = len(figures["missing_shards"])
    lines = [
        f"{dataset.root}: {figures['num_samples']:,} of {spec.num_samples:,} images of {len(spec.prompts):,} "
        f"prompts, {figures['num_shards']} of {spec.num_shards} shards",
        f"  model          {visible(spec.model)}"
        + (f" with {visible(spec.adapter)}" if spec.adapter else ""),
        f"  chain          {spec.num_inference_steps} steps, ddim_eta {spec.ddim_eta:g}, guidance "
        f"{spec.guidance_scale:g}, {spec.latent_dtype} latents {'x'.join(map(str, spec.latent_shape))}",
        f"  images         {spec.width}x{spec.height} pixels, seed {spec.seed}",
        f"  licence        {visible(figures['license'])}",
        f"  fingerprint    {figures['fingerprint']}",
    ]
    lines += [f"  {folder:<14} {amount(size)}" for folder, size in figures["bytes"].items() if size]
    for name, one in figures["scores"].items():
        lines += _say_scores(name, one)
    for one in figures["agreement"]:
        if one["same_order"] is not None:
            lines.append(
                f"  {one['a']} and {one['b']}: {one['same_order']:.0%} agree of {one['compared']:,} comparisons"
                + (f", rank correlation {one['spearman']:.2f}" if one["spearman"] is not None else "")
            )
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
        lines.append(f"next: ppod-score {dataset.root} --reward scenes")
    return lines


def _say_scores(name: str, one: Mapping[str, Any]) -> list[str]:
    from ppod_data.overview import sparkline
    from ppod_data.prompts import visible
    from ppod_data.wording import fixed

    failed = f", {one['failed']:,} failed" if one["failed"] else ""
    lines = [
        f"  scores {name}: {one['rows']:,} by {visible(one['scorer'])} {visible(one['revision'])}{failed}"
    ]
    if one["mean"] is not None:
        shape = one["histogram"]
        lines.append(f"    mean {fixed(one['mean'])}, median {fixed(one['median'])}")
        lines.append(
            f"    {fixed(shape['edges'][0])} |{sparkline(shape['counts'])}| {fixed(shape['edges'][-1])}"
        )
    return lines


def _say_agreement(agrees_with: Mapping[str, Any]) -> str:
    known = [f"{name} {one['share']:.0%}" for name, one in agrees_with.items() if one["share"] is not None]
    return f"; agree: {', '.join(known)}" if known else ""
