"""`ppod-pair export`: pairs in the formats of others."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from ppod_cli.app.options import DatasetFolder, command
from ppod_cli.app.output import Outcome
from ppod_cli.app.progress import progress
from ppod_cli.app.read_prompts import local_only
from ppod_data.support.formatting import counted

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
) -> Outcome:
    """Write a table of pairs, with its images, in a form that other tools read."""
    from ppod_data.library.exporting import export_pairs

    with progress(0, f"export {name}", "pairs") as display:
        done = export_pairs(dataset, out, name=name, format=format, progress=display)
    lines = [f"{out}: {counted(done.num_pairs, 'pair')} of {counted(done.num_images, 'image')} as {format}"]
    if done.num_hardened:
        lines.append(f"{done.num_hardened:,} soft labels are hard there: the format has wins and ties only")
    figures = {"dataset": dataset, "name": name, "format": format, "out": str(out)}
    return Outcome(figures | dataclasses.asdict(done), lines)
