"""`ppod-pair label`: a page on which people compare the images of a data set."""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ppod_cli.app.hints import next_line
from ppod_cli.app.options import Config, DatasetFolder, Debug, Json, command
from ppod_cli.app.output import summary
from ppod_data.annotate.settings import LabelSettings

if TYPE_CHECKING:
    from ppod_data.annotate.session import Count

_EXAMPLES = (
    "ppod-pair label data --name people",
    "ppod-pair label data --name people --answers-per-question 3 --repeat-share 0.1",
    "ppod-pair label data --choose disagreement --reward scenes --reward aesthetic",
    "ppod-pair label data --name best --images-per-question 4 --host 0.0.0.0",
    "ppod-pair label data --name faces --dimension faces \\\n    --question 'Whose face is drawn better?'",
)
_SERVING = "Serving"


def add_commands(commands: typer.Typer) -> None:
    """Add the command of this file to `ppod-pair`."""
    command(commands, examples=_EXAMPLES)(label)


def label(
    dataset: DatasetFolder,
    *,
    name: Annotated[str, typer.Option(help="Name of the labels.", metavar="NAME")] = "people",
    answers: Annotated[
        Path | None,
        typer.Option(
            help="Local folder of the answers, for a data set in a store.",
            show_default="DATASET/labels/NAME.answers",
            metavar="DIR",
        ),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="Score table that --choose reads; give it twice for disagreement.",
            show_default=False,
            metavar="NAME",
        ),
    ] = None,
    settings: LabelSettings,
    host: Annotated[
        str,
        typer.Option(
            help="Address to serve on. Beyond this machine, as with 0.0.0.0, the page's address has a token.",
            metavar="HOST",
            rich_help_panel=_SERVING,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port; 0 takes a free one.", metavar="N", rich_help_panel=_SERVING
        ),
    ] = 8080,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Collect people's labels on a page in the browser, until interrupted.

    The page shows images of one prompt and takes a choice, a tie or a skip, by click, touch or keyboard. Several people
    answer at once, each under a name of their own. Every answer is on the disk before the next question is shown; run
    the same command again to go on. What was answered becomes labels and pairs with ppod-pair import.
    """
    from ppod_data.library.annotating import label_page

    with (
        summary(as_json) as report,
        label_page(dataset, name, settings, rewards=reward or [], answers=answers) as page,
    ):

        def on_ready(address: str) -> None:
            count = page.count
            known = f", {count.num_answers:,} answered" if count.num_answers else ""
            # stdout holds the summary alone
            print(f"{page.num_questions:,} questions{known}. Open {address}", file=sys.stderr)
            print("Every answer is kept at once; Ctrl-C ends.", file=sys.stderr, flush=True)

        with contextlib.suppress(KeyboardInterrupt):
            page.serve(host, port, on_ready)
        figures = {"dataset": dataset, "name": name, "answers": str(page.folder)}
        report(figures | dataclasses.asdict(page.count), _say(dataset, name, page.folder, page.count))


def _say(dataset: str, name: str, folder: Path, count: "Count") -> list[str]:
    line = f"{folder}: {count.num_answers:,} answers by {count.num_annotators:,} people"
    line += f", {count.num_ties:,} of them ties" if count.num_ties else ""
    line += f"; {count.num_skipped:,} skipped" if count.num_skipped else ""
    lines = [line]
    if count.num_repeated:
        lines.append(
            f"asked again: {count.num_repeated:,}, answered alike {count.num_repeated_alike / count.num_repeated:.0%}"
        )
    if count.num_answers:
        lines.append(
            next_line("ppod-pair", "import", dataset, folder, "--format", "ppod-label", "--name", name)
        )
    return lines
