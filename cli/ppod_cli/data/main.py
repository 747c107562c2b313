"""`ppod-data`: look at a data set, and add tables to it."""

import dataclasses
from typing import Annotated

import typer

from ppod_cli.app.errors import entry_point, runner
from ppod_cli.app.hints import say_train
from ppod_cli.app.options import DatasetFolder, command, new_commands
from ppod_cli.app.output import Outcome
from ppod_cli.app.progress import progress
from ppod_cli.data import integrity, views
from ppod_data.cluster.settings import DeviceSettings
from ppod_data.diffusion.models.source import ModelSource

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
    device: DeviceSettings,
) -> Outcome:
    """Compute the log-probabilities of the recorded steps under another policy, or in other numerics.

    The table takes the place of the recorded numbers in ppod-train offline --reference-log-probs NAME. Run the
    same command again to go on after an interruption.
    """
    from ppod_data import Dataset
    from ppod_data.library.editing import log_probs as compute_log_probs
    from ppod_data.library.lines.data import log_prob_lines

    opened = Dataset.open(dataset)
    with progress(0, f"log-probs {name}", "trajectories") as display:
        display.note("loading the model")
        loaded = model.for_data(opened.spec).load(device.resolved())
        done = compute_log_probs(opened, loaded, name=name, batch_size=batch_size, progress=display)
    lines = log_prob_lines(dataset, done)
    dtype = loaded.compute_dtype
    numerics = ["--compute-dtype", dtype] if dtype != opened.spec.compute_dtype else []
    if loaded.fingerprint == opened.spec.policy_fingerprint and opened.spec.adapter is None:
        numerics += ["--reference-log-probs", name]
    tables = opened.pair_names()
    for table in tables:
        choice = "" if len(tables) == 1 else f"on the pairs {table}"
        lines += say_train(dataset, opened, table, choice, numerics)
    return Outcome({"dataset": dataset} | dataclasses.asdict(done), lines)


integrity.register(commands)

app = entry_point(
    runner(commands, "ppod-data", out_of_memory="lower --batch-size, or give --compute-dtype fp16")
)
