"""`ppod-train online`: stages of generate, score, pair, train, evaluate."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ppod_cli.app.dataclass_options import Without
from ppod_cli.app.launch import is_main
from ppod_cli.app.options import (
    NEW_MODEL,
    Config,
    Debug,
    Device,
    DropDuplicates,
    Json,
    Prompt,
    PromptColumn,
    Prompts,
    local_only,
)
from ppod_cli.app.output import summary
from ppod_cli.app.plans import online_plan
from ppod_cli.app.processes import NumProcesses
from ppod_cli.app.progress import loading, progress
from ppod_cli.app.read_prompts import prompts_of
from ppod_cli.train.options import DryRun, PushToHub
from ppod_cli.train.progress import end_lines, reward_line, with_upload
from ppod_cli.train.ranks import num_ranks, run_ranks
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.generation.sampling_settings import SamplingSettings
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
    out: Annotated[
        Path, typer.Option(help="Folder of the run.", metavar="DIR", show_default=False, callback=local_only)
    ],
    model: Annotated[ModelSource, NEW_MODEL, Without({"adapter"})],
    prompt: Prompt = None,
    prompts: Prompts = None,
    prompt_column: PromptColumn = None,
    drop_duplicates: DropDuplicates = False,
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
    device: Device = "auto",
    num_processes: NumProcesses = "auto",
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train online: every stage makes a new data set with the newest policy, scores it, and trains on it.

    Run the same command again to go on after an interruption, or with more stages to go further. Every stage is an
    ordinary data set and an ordinary run: OUT/stage-01/data and OUT/stage-01/run.
    """
    texts = prompts_of(prompt, prompts, prompt_column, drop_duplicates)
    settings = dataclasses.replace(settings, train=train)
    main = is_main()
    with summary(as_json, speaks=main) as report:
        from ppod_train.library.ranks import online_job

        def job() -> "RankJob":
            return online_job(texts, settings, sampling, model)

        with loading("online", silent=not main):
            count = 1 if dry_run else num_ranks(ctx, num_processes, device, job)
            if count == 1:
                from ppod_train import train_online
                from ppod_train.library.hub import check_repo_id
                from ppod_train.library.plans import plan_online
        if count > 1:
            run_ranks(ctx.obj.arguments, count)
            return
        check_repo_id(push_to_hub)
        if dry_run:
            plan = plan_online(texts, settings, sampling=sampling, model=model, device=device)
            report(*online_plan(plan))
            return
        with progress(0, "online", "stages", silent=not main) as shown:
            run = train_online(
                out,
                texts,
                settings,
                sampling=sampling,
                model=model,
                reward=reward,
                device=device,
                progress=shown,
            )
        if main:
            report(
                *with_upload(push_to_hub, out, dataclasses.asdict(run.summary), _trained(out, run.summary))
            )


def _trained(out: Path, done: "OnlineSummary") -> list[str]:
    return [
        f"{out}: {done.stages} stages, {done.reward_queries:,} images judged",
        *reward_line(done.reward_before, done.reward_best, f"after stage {done.best_stage}"),
        *end_lines(out, done.verdict),
    ]
