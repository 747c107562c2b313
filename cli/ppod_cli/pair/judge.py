"""`ppod-pair judge`: a vision language model compares the images of a data set."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ppod_cli.app.hints import next_line
from ppod_cli.app.options import Config, DatasetFolder, Debug, Json, command
from ppod_cli.app.output import summary
from ppod_cli.app.progress import progress

if TYPE_CHECKING:
    from ppod_data.annotate.pair_judge import JudgeSummary

_EXAMPLES = (
    "ppod-pair judge data --judge 'openai:http://127.0.0.1:8000/v1#Qwen2.5-VL'",
    "ppod-pair judge data --judge openai:judge.toml --pairs people --name vlm",
    "ppod-pair judge data --judge openai:hands.toml --dimension hands --name hands",
)


def add_commands(commands: typer.Typer) -> None:
    """Add the command of this file to `ppod-pair`."""
    command(commands, examples=_EXAMPLES)(judge)


def judge(
    dataset: DatasetFolder,
    judge: Annotated[
        str,
        typer.Option(
            help="The model behind an OpenAI-compatible API: openai:URL#MODEL, or openai:FILE.toml with its question.",
            metavar="NAME",
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the labels.", metavar="NAME")] = "judge",
    answers: Annotated[
        Path | None,
        typer.Option(
            help="Local folder of the answers, for a data set in a store.",
            show_default="DATASET/labels/NAME.answers",
            metavar="DIR",
        ),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(
            help="Table whose pairs are judged, such as people's: a name under pairs/.",
            show_default="pairs of a prompt at random",
            metavar="NAME",
        ),
    ] = None,
    num_questions: Annotated[
        int, typer.Option(min=1, help="Pairs, of all prompts together.", metavar="N")
    ] = 500,
    dimension: Annotated[
        str,
        typer.Option(
            help="What the question is about, such as hands: the dimension of the labels.", metavar="NAME"
        ),
    ] = "overall",
    seed: Annotated[int, typer.Option(min=0, help="Seed of questions and order.", metavar="SEED")] = 0,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Let a vision language model compare images, each pair in both orders.

    Every answer is on the disk before the next one; run the same command again to go on, and to ask again what could
    not be read. What was answered becomes labels and pairs with ppod-pair import: the judge is one more annotator.
    """
    from ppod_data.library.annotating import Questions, judge_images

    with summary(as_json) as report:
        with progress(0, f"judge {name}", "pairs") as shown:
            folder, done = judge_images(
                dataset,
                judge,
                name,
                answers=answers,
                about=Questions(pairs=pairs, count=num_questions, dimension=dimension, seed=seed),
                progress=shown,
            )
        figures = {"dataset": dataset, "name": name} | dataclasses.asdict(done)
        report(figures, _say(dataset, name, folder, done))


def _say(dataset: str, name: str, folder: Path, done: "JudgeSummary") -> list[str]:
    line = f"{done.file}: {done.num_judged:,} pairs judged now"
    line += f", {done.num_skipped:,} were there" if done.num_skipped else ""
    line += f", {done.num_unreadable:,} unreadable ({done.first_unreadable})" if done.num_unreadable else ""
    lines = [line]
    if done.first_preferred is not None:
        lines.append(
            f"  image shown first preferred: {done.first_preferred:.3f}; {done.num_reversed:,} of {done.num_answers:,} "
            "pairs change with the order"
        )
    lines.append(f"  {done.usage}")
    if done.num_answers:
        lines.append(
            next_line("ppod-pair", "import", dataset, folder, "--format", "ppod-judge", "--name", name)
        )
    return lines
