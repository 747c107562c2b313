"""`ppod-pair label`: a page on which people compare the images of a data set."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ppod_cli.app.hints import next_line
from ppod_cli.app.options import Config, DatasetFolder, Debug, Json, command
from ppod_cli.app.output import summary
from ppod_data.errors import ConfigError

if TYPE_CHECKING:
    from ppod_data.annotate.session import Count, Session

_EXAMPLES = (
    "ppod-pair label data --name people",
    "ppod-pair label data --name people --answers-per-question 3 --repeat-share 0.1",
    "ppod-pair label data --choose disagreement --reward scenes --reward aesthetic",
    "ppod-pair label data --name best --images-per-question 4 --host 0.0.0.0",
    "ppod-pair label data --name faces --dimension faces \\\n    --question 'Whose face is drawn better?'",
)
_PAGE = "What is asked"
_SERVING = "Serving"


def add_commands(commands: typer.Typer) -> None:
    """Add the command of this file to `ppod-pair`."""
    command(commands, examples=_EXAMPLES)(label)


def label(
    dataset: DatasetFolder,
    name: Annotated[str, typer.Option(help="Name of the labels.", metavar="NAME")] = "people",
    answers: Annotated[
        Path | None,
        typer.Option(
            help="Local folder of the answers, for a data set in a store.",
            show_default="DATASET/labels/NAME.answers",
            metavar="DIR",
        ),
    ] = None,
    choose: Annotated[
        Literal["random", "small-margin", "disagreement"],
        typer.Option(
            help="Which images are compared. small-margin: those that one reward hardly tells apart. disagreement: "
            "those that two rewards put in opposite order."
        ),
    ] = "random",
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="Score table that --choose reads; give it twice for disagreement.",
            show_default=False,
            metavar="NAME",
        ),
    ] = None,
    num_questions: Annotated[
        int, typer.Option(min=1, help="Questions, of all prompts together.", metavar="N")
    ] = 500,
    images_per_question: Annotated[
        int, typer.Option(min=2, max=9, help="Images of which the best is chosen.", metavar="K")
    ] = 2,
    answers_per_question: Annotated[
        int, typer.Option(min=1, help="Different people who are asked each question.", metavar="N")
    ] = 1,
    repeat_share: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.5,
            help="This share of the questions are asked a person again, to see how consistent answers are.",
            metavar="X",
        ),
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Seed of questions and order.", metavar="SEED")] = 0,
    question: Annotated[
        str | None,
        typer.Option(
            help="What the page asks about the images.",
            show_default="Which image is better?",
            metavar="TEXT",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    instructions: Annotated[
        str | None,
        typer.Option(
            help="How to answer, shown before the first question and on demand.",
            show_default="choose what shows the text and looks good",
            metavar="TEXT",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    dimension: Annotated[
        str,
        typer.Option(
            help="What the answers are on, such as aesthetics: the dimension of the labels.",
            metavar="NAME",
            rich_help_panel=_PAGE,
        ),
    ] = "overall",
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
    from ppod_data.annotate.app import INSTRUCTIONS, QUESTION, label_app
    from ppod_data.annotate.questions import read_questions
    from ppod_data.annotate.session import open_session
    from ppod_data.dataset.dataset import Dataset
    from ppod_data.format.tables import check_name
    from ppod_data.storage.files import data_path, local_path
    from ppod_data.support.http import listen, serve

    check_name(name, "a table of labels")
    token, shown_host = _token(host)
    with summary(as_json) as report:
        opened = Dataset.open(data_path(dataset))
        folder = answers or opened.root / "labels" / f"{name}.answers"
        if not isinstance(folder, Path):
            raise ConfigError(f"{dataset}: answers are kept in a local folder: give one with --answers DIR")
        questions = read_questions(
            opened,
            size=images_per_question,
            count=num_questions,
            seed=seed,
            choose=choose,
            rewards=reward or [],
        )
        session = open_session(
            local_path(folder),
            questions,
            answers_per_question=answers_per_question,
            repeat_share=repeat_share,
            seed=seed,
            dimension=dimension.strip() or "overall",
        )
        try:
            usual = QUESTION if session.dimension == "overall" else f"{QUESTION} Judge: {session.dimension}"
            app = label_app(
                opened,
                session,
                title=opened.root.resolve().name,
                question=question or usual,
                instructions=instructions or INSTRUCTIONS,
                token=token,
            )
            with listen(host, port) as listening:
                _serve(lambda ready: serve(app, listening, ready), shown_host, token, session)
            figures = {"dataset": dataset, "name": name, "answers": str(session.folder)}
            count = session.count()
            report(figures | dataclasses.asdict(count), _say(dataset, name, folder, count))
        finally:
            session.close()


def _token(host: str) -> tuple[str | None, str]:
    """The token of the address, None on loopback; and the host to put into the address."""
    import ipaddress
    import secrets
    import socket

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return (None, host) if host == "localhost" else (secrets.token_urlsafe(16), host)
    if address.is_loopback:
        return None, host
    return secrets.token_urlsafe(16), socket.gethostname() if address.is_unspecified else host


def _serve(
    run: Callable[[Callable[[int], None]], None], host: str, token: str | None, session: "Session"
) -> None:
    """Serve until Ctrl-C; the address goes to stderr, so that stdout holds the summary alone."""
    import contextlib
    import sys

    from ppod_data.support.http import base_url

    def on_ready(port: int) -> None:
        address = f"{base_url(host, port)}/" + (f"?token={token}" if token else "")
        count = session.count()
        known = f", {count.num_answers:,} answered" if count.num_answers else ""
        print(f"{len(session.questions):,} questions{known}. Open {address}", file=sys.stderr)
        print("Every answer is kept at once; Ctrl-C ends.", file=sys.stderr, flush=True)

    with contextlib.suppress(KeyboardInterrupt):
        run(on_ready)


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
