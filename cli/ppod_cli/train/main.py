"""`ppod-train`: train a policy on pairs, evaluate it, report on runs."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppod_cli.app import sampling_options
from ppod_cli.app.errors import entry_point, runner
from ppod_cli.app.launch import load_policy
from ppod_cli.app.options import Config, Debug, Device, Json, command, local_only, new_commands
from ppod_cli.app.output import say_notes, summary
from ppod_cli.app.plans import say_time, say_training, seconds_of_data
from ppod_cli.app.processes import NumProcesses
from ppod_cli.app.progress import progress
from ppod_cli.app.prompt_notes import cut_notes
from ppod_cli.train.data import data_source, load_judge_of, refuse_unread_table
from ppod_cli.train.eval import EVAL_EXAMPLES, evaluate
from ppod_cli.train.online import ONLINE_EXAMPLES, online
from ppod_cli.train.options import DryRun, PushToHub
from ppod_cli.train.progress import run_callbacks, say_trained, with_upload
from ppod_cli.train.share import offline_job, run_shared
from ppod_cli.train.workers import leads, started_workers
from ppod_train.settings import TrainSettings

if TYPE_CHECKING:
    from ppod_data.format.spec import GenerationSpec

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

Out = Annotated[
    Path,
    typer.Option(help="Folder for what comes out.", metavar="DIR", show_default=False, callback=local_only),
]


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
    model: sampling_options.PolicyModel = None,
    revision: sampling_options.PolicyRevision = None,
    variant: sampling_options.PolicyVariant = None,
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
    compute_dtype: sampling_options.PolicyComputeDtype = None,
    push_to_hub: PushToHub = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    num_processes: NumProcesses = "auto",
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a policy on the pairs or scores of one or more data sets; the best policy goes to OUT/policy.

    The policy is evaluated on noise of its own while it trains, the best one is kept, and training stops
    early. Run the same command again to continue after an interruption. The processes of this machine
    (--num-processes) or of torchrun share every step.
    """
    from ppod_data.dataset.dataset import Dataset
    from ppod_data.dataset.merge import expand
    from ppod_data.rewards import check_reward_name
    from ppod_data.storage.files import data_path
    from ppod_data.storage.folder_kinds import OFFLINE, check_out
    from ppod_train.run.hub import check_repo_id

    roots = expand([data_path(dataset) for dataset in datasets])
    if reward is not None:
        check_reward_name(reward)
    if push_to_hub is not None:
        check_repo_id(push_to_hub)
    check_out(out, OFFLINE)
    with summary(as_json, speaks=leads()) as report:
        settings.validate()
        refuse_unread_table(settings.objective, pairs, scores)
        opened = [Dataset.open(root) for root in roots]
        spec = opened[0].spec
        dtype = compute_dtype or spec.compute_dtype
        if dry_run:
            report(*_plan(spec, settings, model or spec.model, revision or spec.revision, dtype, device))
            return
        if run_shared(ctx, num_processes, device, offline_job(spec, settings, model or spec.model)):
            return
        from ppod_train.run.train import train_offline

        source = data_source(opened, settings.objective, pairs, scores, reference_log_probs)
        with started_workers(device) as workers:
            judge = load_judge_of(source, opened, settings, reward, workers.device)
            reference = load_policy(spec, model, revision, variant, None, workers.device, dtype)
            prompts = list(dict.fromkeys(text for dataset in opened for text in dataset.spec.prompts))
            say_notes(cut_notes(reference, prompts, spec.negative_prompt))
            with progress(settings.num_train_steps, "train", "steps", silent=not workers.is_main) as shown:
                if judge is not None:
                    shown.say(f"train: judged by {judge.name}")
                done = train_offline(
                    source,
                    out,
                    settings,
                    model=reference,
                    reward=judge,
                    start=start,
                    callbacks=run_callbacks(out, shown),
                    workers=workers,
                )
            if workers.is_main:
                report_path = _report_on_run(out)
                figures = {"run": str(out), **dataclasses.asdict(done)}
                figures |= {"policy": str(out / done.policy), "report": str(report_path)}
                report(*with_upload(push_to_hub, out / "policy", figures, say_trained(out, done)))


def _plan(
    spec: "GenerationSpec",
    settings: TrainSettings,
    model: str,
    revision: str | None,
    compute_dtype: str,
    device: str,
) -> tuple[dict[str, Any], list[str]]:
    from ppod_data.diffusion.models.skeleton import load_skeleton
    from ppod_train.run.cost import plan_training
    from ppod_train.run.model_defaults import explain_choices

    skeleton = load_skeleton(model, revision=revision, compute_dtype=compute_dtype)
    plan = plan_training(skeleton, spec, settings)
    chosen = explain_choices(settings, spec)
    data_seconds = seconds_of_data(spec, model, revision, device, compute_dtype)
    seconds = None if data_seconds is None else plan.seconds(data_seconds)
    lines = ["nothing was done; training would take", *say_training(plan), say_time(seconds), *chosen]
    return {**dataclasses.asdict(plan), "seconds": seconds}, lines


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
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the policy of a checkpoint for plain diffusers, and for --adapter or --start.

    A run keeps its newest two checkpoints.
    """
    with summary(as_json) as report:
        from ppod_train.run.export import export_policy

        done = export_policy(checkpoint, out)
        lines = [f"policy: {done.policy}, after {done.step} steps"]
        if not done.whole:
            lines.append(f"a LoRA of {done.model}")
        report({**dataclasses.asdict(done), "policy": str(done.policy)}, lines)


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
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write one self-contained HTML file with plots and sample grids of runs, finished or not."""
    with summary(as_json) as report:
        from ppod_data.storage.folder_kinds import check_html
        from ppod_train.report import write_report

        if out is None:
            out = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
        check_html(out, option="--out")
        write_report(runs, out)
        report({"report": str(out)}, [f"report: {out}"])


def _report_on_run(out: Path) -> Path:
    from ppod_train.report import write_report

    write_report([out], out / "report.html")
    return out / "report.html"


_OUT_OF_MEMORY = (
    "lower --pairs-per-step, --batch-size, --eval-images-per-prompt or --num-processes, or give "
    "--gradient two-pass"
)
run = runner(commands, "ppod-train", out_of_memory=_OUT_OF_MEMORY)
app = entry_point(commands, "ppod-train", out_of_memory=_OUT_OF_MEMORY)
