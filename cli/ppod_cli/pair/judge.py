"""`ppod-pair judge`: a vision language model compares the images of a data set."""

import dataclasses
from typing import Annotated

import typer

from ppod_cli.app.options import Answers, DatasetFolder, Name, command
from ppod_cli.app.output import Outcome
from ppod_cli.app.progress import progress
from ppod_cli.pair.import_line import import_line
from ppod_data.annotate.settings import JudgeSettings

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
    name: Name = "judge",
    answers: Answers = None,
    *,
    settings: JudgeSettings,
) -> Outcome:
    """Let a vision language model compare images, each pair in both orders.

    Every answer is on the disk before the next one; run the same command again to go on, and to ask again what could
    not be read. What was answered becomes labels and pairs with ppod-pair import: the judge is one more annotator.
    """
    from ppod_data import Dataset
    from ppod_data.library.annotating import judge_images
    from ppod_data.library.lines.labels import judged_lines

    opened = Dataset.open(dataset)
    with progress(0, f"judge {name}", "pairs") as display:
        folder, done = judge_images(opened, judge, name, answers=answers, settings=settings, progress=display)
    lines = judged_lines(done)
    if done.num_answers:
        is_new = done.num_judged > 0
        lines.append(import_line(opened, folder, name, format="ppod-judge", dataset=dataset, is_new=is_new))
    return Outcome({"dataset": dataset, "name": name} | dataclasses.asdict(done), lines)
