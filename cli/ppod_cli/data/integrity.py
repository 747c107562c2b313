"""`ppod-data seal`, `verify` and `exclude`: a data set that can be trusted."""

import dataclasses
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppod_cli.app.dataclass_options import Without, given_options
from ppod_cli.app.hints import next_line
from ppod_cli.app.options import DatasetFolder, command
from ppod_cli.app.output import Outcome
from ppod_cli.app.progress import progress
from ppod_cli.app.unread import refuse_unread
from ppod_data.cluster.settings import DeviceSettings
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError

if TYPE_CHECKING:
    from ppod_data.integrity.verify import Report

FINE, DAMAGED, INCOMPLETE, DRIFT = 0, 3, 4, 5

_SEAL_EXAMPLES = ("ppod-data seal data", "ppod-data seal data --incomplete")
_VERIFY_EXAMPLES = (
    "ppod-data verify data",
    "ppod-data verify data --read-data",
    "ppod-data verify data --read-data-subset 5%",
    "ppod-data verify data --model scenes --num-trajectories 64",
)
_EXCLUDE_EXAMPLES = (
    'ppod-data exclude data 0123456789abcdef0123456789abcdef \\\n    --reason "asked by the person shown"',
    'ppod-data exclude data --prompt "a cat and a dog" --reason "licence" --purge',
)


def register(commands: typer.Typer) -> None:
    """Add the commands of this file to `ppod-data`."""
    command(commands, examples=_SEAL_EXAMPLES)(seal)
    command(commands, examples=_VERIFY_EXAMPLES)(verify)
    command(commands, examples=_EXCLUDE_EXAMPLES)(exclude)


def seal(
    dataset: DatasetFolder,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Seal also where shards are missing: they stay missing.")
    ] = False,
) -> Outcome:
    """Close a data set: its manifest, samples and trajectories never change again, and SHA256SUMS names them.

    What stopped processes left behind is removed, and every file is checked first. Scores, log-probabilities
    and pairs may still be added: each table has a seal of its own. README.md and exclusions stay open.
    """
    from ppod_data.library.editing import seal as seal_dataset
    from ppod_data.library.lines.integrity import sealed_lines

    with progress(0, "seal", "files") as display:
        done = seal_dataset(dataset, incomplete=incomplete, progress=display)
    return Outcome({"dataset": dataset} | dataclasses.asdict(done), sealed_lines(dataset, done))


def verify(
    context: typer.Context,
    dataset: DatasetFolder,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read every byte: images, trajectories, and what is sealed.")
    ] = False,
    read_data_subset: Annotated[
        str | None,
        typer.Option(help="Read every byte of a random share of the shards.", metavar="P%"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Also replay stored steps with this model, the one that made the data set, and compare.",
            metavar="ID",
        ),
    ] = None,
    *,
    source: Annotated[ModelSource, Without({"compute_dtype"})],
    num_trajectories: Annotated[
        int, typer.Option(min=1, help="Trajectories to replay, in whole batches.", metavar="N")
    ] = 64,
    max_drift: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Largest difference of a replayed log-probability; 0 in the environment that made the data.",
            metavar="X",
        ),
    ] = 1e-5,
    device: DeviceSettings,
) -> Outcome:
    """Check a data set: what its tables name is there and fits together; with --read-data, every byte.

    Exit codes: 0 all is fine; 1 a failure of the world; 2 not a data set, or wrong options; 3 damage; 4 nothing
    is damaged, but parts are missing or stopped processes left files; 5 replayed log-probabilities drift.
    """
    from ppod_data import Dataset
    from ppod_data.library.checking import add_replay
    from ppod_data.library.checking import verify as verify_dataset
    from ppod_data.library.lines.integrity import verified_lines

    if model is None:
        _refuse_replay_options(context)
    if read_data and read_data_subset is not None:
        raise ConfigError("--read-data reads every byte: leave --read-data-subset out")
    share = 1.0 if read_data else parse_share(read_data_subset)
    with progress(0, "verify", "shards") as display:
        done = verify_dataset(dataset, read_data=share, progress=display)
    if model is not None and not done.of("damaged"):
        opened = Dataset.open(dataset)
        policy = source.for_data(opened.spec).load(device.resolved())
        done = add_replay(done, opened, policy, num_trajectories)
    lines = verified_lines(dataset, done, max_drift=max_drift, replay_asked=model is not None)
    if not done.num_shards_read and not done.findings:
        lines.append(next_line("ppod-data", "verify", dataset, "--read-data"))
    code = _code(done, max_drift)
    figures: dict[str, Any] = {"dataset": dataset, "exit_code": code} | dataclasses.asdict(done)
    return Outcome(figures, lines, code)


def _refuse_replay_options(context: typer.Context) -> None:
    """Raise ConfigError for an option that nothing reads without --model."""
    sources = [*given_options(context, ModelSource), *given_options(context, DeviceSettings)]
    names = {"num_trajectories", "max_drift", *sources}
    refuse_unread(context, names, "says how stored steps are replayed: give --model as well")


def parse_share(text: str | None) -> float:
    """Return the share that `5%` names, 0 for None. Raises ConfigError for other text."""
    if text is None:
        return 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if match is None or not 0 < float(match[1]) <= 100:
        raise ConfigError(f"--read-data-subset {text}: write a share above 0 up to 100, for example 5%")
    return float(match[1]) / 100


def _code(done: "Report", max_drift: float) -> int:
    if done.of("damaged"):
        return DAMAGED
    if done.replay and not max(done.replay.largest) <= max_drift:
        return DRIFT
    return INCOMPLETE if done.findings else FINE


def exclude(
    dataset: DatasetFolder,
    sample_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="SAMPLE_ID …", help="Samples to take down.", show_default=False),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Take down every sample of this prompt. Repeatable.", metavar="TEXT"),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why, in one line: kept in the list.", metavar="TEXT")
    ] = None,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge", help="Also rewrite the files without what the list excludes, for readers not of ppod."
        ),
    ] = False,
) -> Outcome:
    """Take samples down: no ppod command or reader gives them any more, nor scores or pairs of them.

    The list exclusions.jsonl only grows. --purge, alone or with new entries, removes images, trajectories and
    rows from the files; a sealed data set is sealed again. The prompt's text stays in ppod.json.
    """
    from ppod_data.library.editing import exclude as exclude_samples
    from ppod_data.library.lines.integrity import excluded_lines

    with progress(0, "purge", "files") as display:
        done = exclude_samples(
            dataset, sample_ids or [], prompt or [], reason=reason, purge=purge, progress=display
        )
    return Outcome({"dataset": dataset} | dataclasses.asdict(done), excluded_lines(dataset, done))
