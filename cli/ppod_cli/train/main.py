"""`ppod-train`: train a policy on pairs, evaluate it, report on runs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ppod_cli.app.dataclass_options import Without
from ppod_cli.app.errors import entry_point, runner
from ppod_cli.app.options import Out, command, new_commands
from ppod_cli.app.output import Outcome, is_main
from ppod_cli.app.progress import loading, progress
from ppod_cli.train.eval import EVAL_EXAMPLES, evaluate
from ppod_cli.train.online import ONLINE_EXAMPLES, online
from ppod_cli.train.options import DryRun, PushToHub
from ppod_cli.train.progress import end_lines, reward_line, with_upload
from ppod_cli.train.ranks import run_shared
from ppod_data.cluster.settings import ProcessSettings
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import WorkersError
from ppod_data.support.formatting import counted
from ppod_train.settings import TrainSettings

if TYPE_CHECKING:
    from ppod_train.library.rank_processes import RankEnd
    from ppod_train.library.ranks import RankJob
    from ppod_train.run.train import TrainSummary

_OFFLINE_EXAMPLES = (
    "ppod-train offline data --pairs scenes --out run",
    "ppod-train offline data more-data --out run-2 --num-train-steps 200",
    "ppod-train offline data --objective dpok --scores scenes --out run-dpok",
    "ppod-train offline data --out run --num-processes 8",
)
_EXPORT_EXAMPLES = (
    "ppod-train export run --out policy",
    "ppod-train export run/checkpoints/step-000040 --out policy-40",
)
_REPORT_EXAMPLES = ("ppod-train report run", "ppod-train report run run-2 --out both.html")

commands = new_commands(
    "Train a policy on pairs of trajectories, evaluate it, and report on runs.",
    examples=(_OFFLINE_EXAMPLES[0], ONLINE_EXAMPLES[0], EVAL_EXAMPLES[0], _REPORT_EXAMPLES[0]),
)


@command(commands, examples=_OFFLINE_EXAMPLES)
def offline(
    ctx: typer.Context,
    *,
    datasets: Annotated[
        list[str],
        typer.Argument(
            metavar="DATASET",
            help="Folders or URLs of data sets, or files of ppod-data merge.",
            show_default=False,
        ),
    ],
    out: Out,
    pairs: Annotated[
        str | None,
        typer.Option(
            help="Table of pairs, a name under pairs/ of every data set.",
            show_default="the only one",
            metavar="NAME",
        ),
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(
            help="Table of scores, a name under scores/, for an objective without pairs.",
            show_default="the only one",
            metavar="NAME",
        ),
    ] = None,
    settings: TrainSettings,
    reward: Annotated[
        str | None,
        typer.Option(
            help="Reward model that judges, as in ppod-score.",
            show_default="the one that made the pairs or scores",
            metavar="NAME",
            rich_help_panel="Choosing the policy",
        ),
    ] = None,
    model: Annotated[ModelSource, Without({"adapter"})],
    start: Annotated[
        Path | None,
        typer.Option(
            help="Policy of an earlier run to start from, RUN/policy.",
            show_default="the reference",
            metavar="DIR",
        ),
    ] = None,
    reference_log_probs: Annotated[
        str | None,
        typer.Option(
            help="Log-probabilities to train against, made by ppod-data log-probs.",
            show_default="those recorded with the samples, or the table that is the reference's",
            metavar="NAME",
        ),
    ] = None,
    push_to_hub: PushToHub = None,
    dry_run: DryRun = False,
    processes: ProcessSettings,
) -> Outcome | None:
    """Train a policy on the pairs or scores of one or more data sets; the best policy goes to OUT/policy.

    The policy is evaluated on noise of its own while it trains, the best one is kept, and training stops
    early. Run the same command again to continue after an interruption. The processes of this machine
    (--num-processes) or of torchrun share every step.
    """
    main = is_main()
    from ppod_train.library.ranks import offline_job

    def job() -> "RankJob":
        return offline_job(datasets[0], settings, model)

    if not dry_run and run_shared(ctx, processes, job):
        return None
    with loading("train", silent=not main):
        from ppod_train import DataSource, train
        from ppod_train.library.hub import check_repo_id
        from ppod_train.library.plan_lines import offline_plan
        from ppod_train.library.plans import plan_offline

    check_repo_id(push_to_hub)
    data = DataSource(
        roots=datasets, pairs=pairs or "", scores=scores or "", reference_log_probs=reference_log_probs
    )
    device = processes.device
    if dry_run:
        return Outcome(*offline_plan(plan_offline(data, settings, model=model, device=device)))
    with progress(0, "train", "steps", silent=not main) as display:
        run = train(
            data, out, settings, model=model, reward=reward, start=start, device=device, progress=display
        )
    if not main:
        return None
    return with_upload(push_to_hub, out, dataclasses.asdict(run.summary), _trained(out, run.summary))


def _trained(out: Path, done: "TrainSummary") -> list[str]:
    when = f"at step {done.best_step}, {counted(done.reward_queries, 'image')} judged"
    return [
        f"{out}: {counted(done.steps, 'step')}" + (", stopped early" if done.stopped_early else ""),
        *reward_line(done.reward_before, done.reward_best, when),
        *end_lines(out, done.verdict),
    ]


command(commands, examples=ONLINE_EXAMPLES)(online)


command(commands, name="eval", examples=EVAL_EXAMPLES)(evaluate)


@command(commands, examples=_EXPORT_EXAMPLES)
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="RUN/checkpoints/step-NNNNNN, or RUN for its newest.",
            show_default=False,
        ),
    ],
    out: Out,
) -> Outcome:
    """Write the policy of a checkpoint for plain diffusers, and for --adapter or --start.

    A run keeps its newest two checkpoints.
    """
    from ppod_train.library.export import export_policy

    done = export_policy(checkpoint, out)
    lines = [f"policy: {done.policy}, after {counted(done.step, 'step')}"]
    if not done.whole:
        lines.append(f"a LoRA of {done.model}")
    return Outcome(dataclasses.asdict(done) | {"policy": str(done.policy)}, lines)


@command(commands, name="report", examples=_REPORT_EXAMPLES)
def report_on_runs(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders of training runs and evaluations.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The HTML file.", show_default="report.html in the run, here for several", metavar="FILE"
        ),
    ] = None,
) -> Outcome:
    """Write one self-contained HTML file with plots and sample grids of runs, finished or not."""
    from ppod_train import write_report

    page = write_report(runs, out)
    return Outcome({"report": str(page)}, [f"report: {page}"])


_OUT_OF_MEMORY = (
    "lower --pairs-per-step, --batch-size, --eval-images-per-prompt or --num-processes, or give --gradient two-pass or "
    "--gradient-checkpointing; an online run that has data keeps its --batch-size and --eval-images-per-prompt"
)


def run_as_rank(arguments: Sequence[str]) -> "RankEnd":
    """Run a command line in a rank, without printing its error."""
    from ppod_train.library.rank_processes import RankEnd

    ended = _run(arguments, is_rank=True)
    return RankEnd(ended.message, ended.code, isinstance(ended.error, WorkersError))


_run = runner(commands, "ppod-train", out_of_memory=_OUT_OF_MEMORY, run_as_rank=run_as_rank)
app = entry_point(_run)
