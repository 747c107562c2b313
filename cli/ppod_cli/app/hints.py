"""The lines `next: …`: commands that run as printed, once words such as FILE are replaced."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppod_data import Dataset


def next_line(*words: object, choice: str = "") -> str:
    """Return the line that names the next command, its words quoted for a shell; `choice` says what it is for."""
    return f"next{choice and f', {choice}'}: {shlex.join(str(word) for word in words)}"


def usual_reward(model: str) -> str:
    """Return the reward to suggest for images of a model: `scenes` reads the prompts of its own model alone."""
    return "scenes" if model == "scenes" else "image-reward"


def say_score(dataset: object, model: str) -> list[str]:
    """Return the lines that score a data set of `model`: by a built-in reward, or by a function of the user's."""
    if model == "scenes":
        return [next_line("ppod-score", dataset, "--reward", usual_reward(model))]
    return [
        next_line("ppod-score", dataset, "--reward", usual_reward(model)),
        next_line("ppod-score", dataset, "--reward", "FILE.py:FUNCTION", choice="with your own reward"),
    ]


def say_import(dataset: object) -> list[str]:
    """Return the line that imports people's labels from a table with the columns of docs/labels.md."""
    words = ("ppod-pair", "import", dataset, "FILE", "--format", "table", "--name", "people")
    return [next_line(*words, choice="with people's labels")]


def free_name(*names: str) -> str:
    """Return the first of some folder names that is free, or the last one with a number that is."""
    for name in names:
        if not Path(name).exists():
            return name
    number = 2
    while Path(f"{names[-1]}-{number}").exists():
        number += 1
    return f"{names[-1]}-{number}"


def say_train(
    dataset: str, opened: "Dataset", pairs: str, choice: str = "", numerics: Sequence[str] = ()
) -> list[str]:
    """Return the line that trains on a table of pairs, judged by the reward that made them.

    Pairs of people name no reward: then one that scored the data set judges, or none. Training on an adapter's data
    starts from that adapter, and needs the reference's log-probabilities first. An incomplete data set is not trained
    on. `numerics` are the options for log-probabilities that were computed again.
    """
    from ppod_data.library.next_steps import judge_options

    spec = opened.spec
    if opened.missing_shards():
        return []
    model = ["--model", spec.model, *(["--revision", spec.revision] if spec.revision else [])]
    if spec.adapter is not None and not opened.log_prob_names():
        return [next_line("ppod-data", "log-probs", dataset, "--name", "base", *model)]
    words = ["ppod-train", "offline", dataset, "--pairs", pairs, *judge_options(opened, pairs)]
    if spec.adapter is not None:  # the policy that made the data, the band of the clip around it
        words += [*model, "--start", spec.adapter, "--clip-anchor", "stage"]
    words += numerics
    return [next_line(*words, "--out", free_name("run", f"run-{pairs}"), choice=choice)]
