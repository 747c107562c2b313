"""`ppod-data`: look at a data set, and add tables to it."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from ppod_cli.app.errors import entry_point
from ppod_cli.app.hints import say_train
from ppod_cli.app.options import Config, DatasetFolder, Debug, Device, Json, command, new_commands
from ppod_cli.app.output import summary
from ppod_cli.app.progress import progress
from ppod_cli.data import integrity, views
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.support.processes import resolve_device

if TYPE_CHECKING:
    from ppod_data.generation.log_probs import LogProbsSummary

_LOG_PROBS_EXAMPLES = (
    "ppod-data log-probs data --name again",
    "ppod-data log-probs data --name stage-1 --adapter run/policy --batch-size 32",
)

commands = new_commands(
    "Look at a data set, and add tables to it.",
    examples=(views.INFO_EXAMPLES[0], _LOG_PROBS_EXAMPLES[0]),
)


command(commands, examples=views.INFO_EXAMPLES)(views.info)
command(commands, examples=views.CARD_EXAMPLES)(views.card)
command(commands, examples=views.EXPORT_EXAMPLES)(views.export)
command(commands, examples=views.MERGE_EXAMPLES)(views.merge)
command(commands, examples=views.PUSH_EXAMPLES)(views.push)
command(commands, examples=views.PULL_EXAMPLES)(views.pull)


@command(commands, name="log-probs", examples=_LOG_PROBS_EXAMPLES)
def log_probs(
    dataset: DatasetFolder,
    name: Annotated[str, typer.Option(help="Name of the table: log_probs/NAME.", metavar="NAME")],
    *,
    model: ModelSource,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Trajectories in one network call.",
            show_default="the data set's batch size",
            metavar="N",
        ),
    ] = None,
    device: Device = "auto",
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compute the log-probabilities of the recorded steps under another policy, or in other numerics.

    The table takes the place of the recorded numbers in ppod-train offline --reference-log-probs NAME. Run the
    same command again to go on after an interruption.
    """
    from ppod_data import Dataset
    from ppod_data.library.editing import log_probs as compute_log_probs

    opened = Dataset.open(dataset)
    with summary(as_json) as report:
        with progress(0, f"log-probs {name}", "trajectories") as shown:
            source = model.for_data(opened.spec)
            shown.note(f"loading {source.model}")
            loaded = source.load(resolve_device(device))
            done = compute_log_probs(opened, loaded, name=name, batch_size=batch_size, progress=shown)
        dtype = loaded.compute_dtype
        lines = _say_computed(dataset, done)
        pairs = opened.pair_names()
        numerics = ["--compute-dtype", dtype] if dtype != opened.spec.compute_dtype else []
        if loaded.fingerprint == opened.spec.policy_fingerprint and opened.spec.adapter is None:
            numerics += ["--reference-log-probs", name]
        for table in pairs:
            choice = "" if len(pairs) == 1 else f"on the pairs {table}"
            lines += say_train(dataset, opened, table, choice, numerics)
        report({"dataset": dataset} | dataclasses.asdict(done), lines)


def _say_computed(dataset: str, done: "LogProbsSummary") -> list[str]:
    line = f"{dataset}/log_probs/{done.name}: {done.num_computed:,} trajectories computed now"
    line += f", {done.num_skipped:,} were there" if done.num_skipped else ""
    if done.max_difference is None:
        return [line]
    return [line, f"largest difference from the log-probabilities in the samples: {done.max_difference:.3g}"]


integrity.register(commands)

app = entry_point(commands, "ppod-data", out_of_memory="lower --batch-size, or give --compute-dtype fp16")
