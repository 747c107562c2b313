"""`ppod-pair label`: a page on which people compare the images of a data set."""

import contextlib
import dataclasses
import sys
from typing import Annotated

import typer

from ppod_cli.app.options import Answers, DatasetFolder, Host, Name, Port, command
from ppod_cli.app.output import Outcome
from ppod_cli.pair.import_line import import_line
from ppod_data.annotate.settings import LabelSettings
from ppod_data.support.formatting import counted

_EXAMPLES = (
    "ppod-pair label data --name people",
    "ppod-pair label data --name people --answers-per-question 3 --repeat-share 0.1",
    "ppod-pair label data --choose disagreement --reward scenes --reward aesthetic",
    "ppod-pair label data --name best --images-per-question 4 --host 0.0.0.0",
    "ppod-pair label data --name faces --dimension faces \\\n    --question 'Whose face is drawn better?'",
)


def add_commands(commands: typer.Typer) -> None:
    """Add the command of this file to `ppod-pair`."""
    command(commands, examples=_EXAMPLES)(label)


def label(
    dataset: DatasetFolder,
    *,
    name: Name = "people",
    answers: Answers = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="Score table that --choose reads; give it twice for disagreement.",
            show_default=False,
            metavar="NAME",
        ),
    ] = None,
    settings: LabelSettings,
    host: Host = "127.0.0.1",
    port: Port = 8080,
) -> Outcome:
    """Collect people's labels on a page in the browser, until interrupted.

    The page shows images of one prompt and takes a choice, a tie or a skip, by click, touch or keyboard. Several people
    answer at once, each under a name of their own. Every answer is on the disk before the next question is shown; run
    the same command again to go on. What was answered becomes labels and pairs with ppod-pair import. Beyond this
    machine, as with --host 0.0.0.0, the page's address has a token.
    """
    from ppod_data.library.annotating import label_page
    from ppod_data.library.lines.labels import answered_lines

    with label_page(dataset, name, settings, rewards=reward or [], answers=answers) as page:
        before = page.count

        def on_ready(address: str) -> None:
            answered = f", {before.num_answers:,} answered" if before.num_answers else ""
            # stdout holds the summary alone
            print(f"{counted(page.num_questions, 'question')}{answered}. Open {address}", file=sys.stderr)
            print("Every answer is kept at once; Ctrl-C ends.", file=sys.stderr, flush=True)

        with contextlib.suppress(KeyboardInterrupt):
            page.serve(host, port, on_ready)
        lines = answered_lines(page.folder, page.count)
        if page.count.num_answers:
            is_new = page.count != before
            lines.append(
                import_line(
                    page.dataset, page.folder, name, format="ppod-label", dataset=dataset, is_new=is_new
                )
            )
        figures = {"dataset": dataset, "name": name, "answers": str(page.folder)}
        return Outcome(figures | dataclasses.asdict(page.count), lines)
