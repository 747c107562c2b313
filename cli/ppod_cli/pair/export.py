"""`ppod-pair export`: pairs in the formats of others."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from ppod_cli.app.options import Config, DatasetFolder, Debug, Json, command, local_only
from ppod_cli.app.output import summary
from ppod_cli.app.progress import progress

_EXAMPLES = (
    "ppod-pair export data --name scenes --format pickapic --out pickapic.parquet",
    "ppod-pair export data --name scenes --format webdataset --out tars",
    "ppod-pair export data --name scenes --format label-studio --out to-label",
)


def add_commands(commands: typer.Typer) -> None:
    """Add the command of this file to `ppod-pair`."""
    command(commands, examples=_EXAMPLES)(export)


def export(
    dataset: DatasetFolder,
    name: Annotated[str, typer.Option(help="Table of pairs: a name under pairs/.", metavar="NAME")],
    format: Annotated[
        Literal["pickapic", "trl", "flow-factory", "webdataset", "csv", "label-studio"],
        typer.Option(
            help="pickapic, trl: a Parquet file. csv: a CSV file. flow-factory, webdataset: a folder. "
            "label-studio: a folder of tasks to label anew."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File or folder to make.", metavar="PATH", callback=local_only)],
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a table of pairs, with its images, in a form that other tools read."""
    from ppod_data.library.exporting import export_pairs

    with summary(as_json) as report:
        with progress(0, f"export {name}", "pairs") as shown:
            done = export_pairs(dataset, out, name=name, format=format, progress=shown)
        lines = [f"{out}: {done.num_pairs:,} pairs of {done.num_images:,} images as {format}"]
        if done.num_hardened:
            lines.append(
                f"{done.num_hardened:,} soft labels are hard there: the format has wins and ties only"
            )
        figures = {"dataset": dataset, "name": name, "format": format, "out": str(out)}
        report(figures | dataclasses.asdict(done), lines)
