"""`ppod-train online`: stages of generate, score, pair, train, evaluate."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ppod_cli.app.dataclass_options import Without
from ppod_cli.app.options import NEW_MODEL, Out
from ppod_cli.app.output import Outcome, is_main
from ppod_cli.app.progress import loading, progress
from ppod_cli.app.read_prompts import prompts_of
from ppod_cli.train.options import DryRun, PushToHub
from ppod_cli.train.progress import end_lines, reward_line, with_upload
from ppod_cli.train.ranks import run_shared
from ppod_data.cluster.settings import ProcessSettings
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.format.prompt_settings import PromptSettings
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.support.formatting import counted
from ppod_train.online.settings import STEPS_PER_STAGE, OnlineSettings
from ppod_train.settings import TrainSettings

if TYPE_CHECKING:
    from ppod_train.library.ranks import RankJob
    from ppod_train.online.records import OnlineSummary

ONLINE_EXAMPLES = (
    "ppod-train online --out run --prompts prompts.txt --stages 4",
    'ppod-train online --out run --prompt "a cat and a dog" --stages 8 \\\n'
    "    --num-images-per-prompt 64 --num-train-steps 25 --clip-anchor stage",
)

StepsPerStage = Annotated[
    int,
    typer.Option(min=1, help="Optimizer steps of every stage.", metavar="N", rich_help_panel="Stages"),
]
StageTraining = Annotated[
    TrainSettings,
    Without(
        {
            "batch_size",
            "check_reward",
            "eval_every",
            "eval_images_per_prompt",
            "eval_prompts",
            "patience",
            "stop_when",
        }
    ),
]
"""A stage is evaluated at its end, in batches of the data set's size."""


def online(
    ctx: typer.Context,
    *,
    out: Out,
    model: Annotated[ModelSource, NEW_MODEL, Without({"adapter"})],
    prompts: PromptSettings,
    reward: Annotated[
        str | None,
        typer.Option(
            help="Reward model that scores and judges, as in ppod-score.",
            show_default="scenes for the model scenes",
            metavar="NAME",
            rich_help_panel="Choosing the policy",
        ),
    ] = None,
    settings: OnlineSettings,
    num_train_steps: StepsPerStage = STEPS_PER_STAGE,
    train: StageTraining,
    sampling: Annotated[SamplingSettings, Without({"store_steps"})],
    push_to_hub: PushToHub = None,
    dry_run: DryRun = False,
    processes: ProcessSettings,
) -> Outcome | None:
    """Train online: every stage makes a new data set with the newest policy, scores it, and trains on it.

    Run the same command again to go on after an interruption. With --lr-scheduler constant, more --stages extend a
    finished run. Every stage is an ordinary data set and an ordinary run: OUT/stage-01/data and OUT/stage-01/run.
    """
    texts = prompts_of(prompts)
    main = is_main()
    settings = dataclasses.replace(settings, train=train)
    from ppod_train.library.ranks import online_job

    def job() -> "RankJob":
        return online_job(texts, settings, sampling, model)

    if not dry_run and run_shared(ctx, processes, job):
        return None
    with loading("online", silent=not main):
        from ppod_train import train_online
        from ppod_train.library.hub import check_repo_id
        from ppod_train.library.plan_lines import online_plan
        from ppod_train.library.plans import plan_online

    check_repo_id(push_to_hub)
    device = processes.device
    if dry_run:
        return Outcome(
            *online_plan(plan_online(texts, settings, sampling=sampling, model=model, device=device))
        )
    with progress(0, "online", "stages", silent=not main) as display:
        run = train_online(
            out,
            texts,
            settings,
            sampling=sampling,
            model=model,
            reward=reward,
            device=device,
            progress=display,
        )
    if not main:
        return None
    return with_upload(push_to_hub, out, dataclasses.asdict(run.summary), _trained(out, run.summary))


def _trained(out: Path, done: "OnlineSummary") -> list[str]:
    return [
        f"{out}: {counted(done.stages, 'stage')}, {counted(done.reward_queries, 'image')} judged",
        *reward_line(done.reward_before, done.reward_best, f"after stage {done.best_stage}"),
        *end_lines(out, done.verdict),
    ]
