"""`ppod-pair`: make preferences, pairs of images of the same prompt."""

import dataclasses
from typing import Annotated, Literal

import typer

from ppod_cli.app.errors import entry_point, runner
from ppod_cli.app.hints import say_train
from ppod_cli.app.options import DatasetFolder, command, new_commands
from ppod_cli.app.output import Outcome
from ppod_cli.pair import combine, export, import_labels, judge, label
from ppod_data.errors import ConfigError
from ppod_data.pairs.settings import PairSettings

_RANK_EXAMPLES = (
    "ppod-pair rank data --reward scenes",
    "ppod-pair rank data --num-pairs-per-prompt 500 --min-margin 0.5 --name wide",
    "ppod-pair rank data --reward scenes --strategy best-worst --name extremes",
    "ppod-pair rank data --label-temperature 1 --name soft",
    "ppod-pair rank data --reward image-reward=0.7 --reward aesthetic=0.3 \\\n  --normalise group --name mixed",
)

commands = new_commands("Make preferences: pairs of images of the same prompt.", examples=_RANK_EXAMPLES[:1])


@command(commands, examples=_RANK_EXAMPLES)
def rank(
    dataset: DatasetFolder,
    *,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="Score table to rank by: a name under scores/. Repeat the option with weights, NAME=WEIGHT, to rank "
            "by their weighted sum.",
            show_default="the only one",
            metavar="NAME",
        ),
    ] = None,
    normalise: Annotated[
        Literal["group", "wins"] | None,
        typer.Option(
            help="group: normalise each reward within each prompt's images before it is weighted, so that the one with "
            "the wider spread does not decide alone. wins: replace each score by the share of the prompt's other "
            "images with a lower one.",
            show_default="the scores as they are",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the table of pairs.",
            show_default="the reward's name",
            metavar="NAME",
        ),
    ] = None,
    settings: PairSettings,
) -> Outcome:
    """Pair images of the same prompt by their scores: pairs/NAME.parquet, a row a pair.

    Ties, margins too small and images without a score are left out and counted.
    """
    from ppod_data import Dataset, RewardSum, rank_pairs
    from ppod_data.library.lines.data import paired_lines
    from ppod_data.library.pairing import only_scores

    asked = _parse_rewards(reward) if reward else None
    opened = Dataset.open(dataset)
    by = asked if asked is not None else only_scores(opened)
    table = name if name is not None else str(by)
    weights = {by: 1.0} if isinstance(by, str) else by
    done = rank_pairs(
        opened,
        by if normalise is None else RewardSum(weights, normalise),
        name=name,
        **dataclasses.asdict(settings),
    )
    missing = len(opened.missing_shards())
    figures = {"dataset": dataset, "name": table, "missing_shards": missing}
    soft = settings.label_temperature is not None
    lines = [
        *paired_lines(dataset, table, done, missing, soft=soft),
        *say_train(dataset, opened, table),
    ]
    return Outcome(figures | dataclasses.asdict(done), lines)


def _parse_rewards(texts: list[str]) -> str | dict[str, float]:
    """One name alone, or the weight of each name."""
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    weights: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        if not equals:
            raise ConfigError(f"--reward {text}: give each of several rewards its weight, {name}=0.5")
        if name in weights:
            raise ConfigError(f"--reward {name} comes twice: give it once, with its weight")
        try:
            weights[name] = float(number)
        except ValueError as error:
            raise ConfigError(f"--reward {text}: {number!r} is no number: give {name}=0.5") from error
    return weights


label.add_commands(commands)
judge.add_commands(commands)
import_labels.add_commands(commands)
combine.add_commands(commands)
export.add_commands(commands)

app = entry_point(
    runner(commands, "ppod-pair", out_of_memory="lower --num-pairs-per-prompt, or take --strategy random")
)
