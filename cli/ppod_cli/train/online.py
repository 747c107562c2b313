"""`ppod-train online`: stages of generate, score, pair, train, evaluate."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppod_cli.app import sampling_options
from ppod_cli.app.dataclass_options import Without
from ppod_cli.app.options import Config, Debug, Device, Json, local_only
from ppod_cli.app.output import say_notes, summary
from ppod_cli.app.plans import say_generation, say_time, say_training, seconds_of_data
from ppod_cli.app.progress import Display, clock, progress
from ppod_cli.app.prompt_notes import cut_notes, skeleton_of
from ppod_cli.app.read_prompts import prompts_of
from ppod_cli.app.usual_reward import usual_reward_of
from ppod_cli.train.options import DryRun, PushToHub
from ppod_cli.train.progress import eval_words, say_ended, with_upload
from ppod_cli.train.workers import leads, started_workers
from ppod_train.online.settings import STEPS_PER_STAGE, OnlineSettings
from ppod_train.settings import TrainSettings, step_range

if TYPE_CHECKING:
    from ppod_data.diffusion.models.model import DiffusionModel
    from ppod_train.evaluation.metrics import EvalResult
    from ppod_train.online.records import OnlineCallbacks, OnlineSummary, StageRecord
    from ppod_train.policy.source import PolicySource

ONLINE_EXAMPLES = (
    "ppod-train online --out run --prompts prompts.txt --stages 4",
    'ppod-train online --out run --prompt "a cat and a dog" --stages 8 \\\n'
    "    --num-images-per-prompt 64 --num-train-steps 25 --clip-anchor stage",
)

ImagesPerStage = Annotated[
    int,
    typer.Option(
        min=1, help="K: images of each prompt in every stage.", metavar="K", rich_help_panel="Stages"
    ),
]
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
    model: sampling_options.Model = "scenes",
    revision: sampling_options.Revision = None,
    variant: sampling_options.Variant = None,
    prompt: sampling_options.Prompt = None,
    prompts: sampling_options.Prompts = None,
    prompt_column: sampling_options.PromptColumn = None,
    drop_duplicates: sampling_options.DropDuplicates = False,
    height: sampling_options.Height = None,
    width: sampling_options.Width = None,
    negative_prompt: sampling_options.NegativePrompt = "",
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
    num_images_per_prompt: ImagesPerStage = 64,
    num_train_steps: StepsPerStage = STEPS_PER_STAGE,
    train: StageTraining,
    num_inference_steps: sampling_options.NumInferenceSteps = 20,
    guidance_scale: sampling_options.GuidanceScale = None,
    guidance_mode: sampling_options.GuidanceMode = "batched",
    ddim_eta: sampling_options.DdimEta = None,
    noisy_steps: sampling_options.NoisySteps = None,
    initial_noise: sampling_options.InitialNoise = "per-image",
    compute_dtype: sampling_options.ComputeDtype = "fp32",
    latent_dtype: sampling_options.LatentDtype = "fp32",
    batch_size: sampling_options.BatchSize = None,
    images_per_shard: sampling_options.ImagesPerShard = None,
    push_to_hub: PushToHub = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train online: every stage makes a new data set with the newest policy, scores it, and trains on it.

    Run the same command again to go on after an interruption, or with more stages to go further. Every stage is an
    ordinary data set and an ordinary run: OUT/stage-01/data and OUT/stage-01/run.
    """
    from ppod_data.rewards import check_reward_name, load_reward
    from ppod_data.storage.folder_kinds import ONLINE, check_out
    from ppod_train.run.hub import check_repo_id

    check_out(out, ONLINE)
    reward = check_reward_name(reward or usual_reward_of(model, "the images"))
    if push_to_hub is not None:
        check_repo_id(push_to_hub)
    texts = prompts_of(prompt, prompts, prompt_column, drop_duplicates)
    with summary(as_json, speaks=leads()) as report:
        from ppod_data.generation.build_spec import build_spec
        from ppod_train.online.online import train_online
        from ppod_train.policy.source import PolicySource
        from ppod_train.report import write_report

        settings = dataclasses.replace(settings, train=train)
        settings.validate()
        chain = {name: ctx.params[name] for name in _CHAIN}
        if dry_run:
            report(
                *_plan(settings, model, revision, variant, compute_dtype, device, {"prompts": texts, **chain})
            )
            return
        say_notes(cut_notes(skeleton_of(model, revision), texts, negative_prompt))
        with started_workers(device) as workers:
            with progress(settings.num_stages, "online", "stages", silent=not workers.is_main) as shown:
                done = train_online(
                    out,
                    settings,
                    reference=PolicySource(model=model, revision=revision, variant=variant),
                    build_spec=partial(build_spec, prompts=texts, **chain),
                    load=partial(_load, device=workers.device, compute_dtype=compute_dtype),
                    reward=load_reward(reward, workers.device),
                    callbacks=_callbacks(shown, settings.num_stages),
                    workers=workers,
                )
            if workers.is_main:
                write_report([out], out / "report.html")
                figures = {"run": str(out), **dataclasses.asdict(done), "policy": str(out / done.policy)}
                figures["report"] = str(out / "report.html")
                report(*with_upload(push_to_hub, out / "policy", figures, _say_done(out, done)))


def _plan(
    settings: OnlineSettings,
    model: str,
    revision: str | None,
    variant: str | None,
    compute_dtype: str,
    device: str,
    generation: dict[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    from ppod_data.diffusion.models.model import calls_per_prediction
    from ppod_data.diffusion.models.skeleton import load_skeleton
    from ppod_data.generation.build_spec import build_spec
    from ppod_train.run.cost import plan_training
    from ppod_train.run.model_defaults import explain_choices

    skeleton = load_skeleton(model, revision=revision, variant=variant, compute_dtype=compute_dtype)
    all_prompts = generation["prompts"]
    spec = build_spec(skeleton, **generation | {"prompts": all_prompts[: settings.prompts_per_stage]})
    plan = plan_training(skeleton, spec, settings.train)
    eval_prompts = settings.eval_prompts or all_prompts
    stages, judged = settings.num_stages, settings.eval_images_per_prompt * len(eval_prompts)
    queries = stages * spec.num_samples + (stages + 1) * judged
    trained = step_range(settings.train.trained_steps) or range(spec.num_inference_steps)
    referred_steps = len(set(plan.generation.noisy_steps) & set(trained))
    halves = calls_per_prediction(skeleton, spec.guidance_scale)
    log_probs = spec.num_samples * referred_steps * halves * (stages - 1)
    data_seconds = seconds_of_data(spec, model, revision, device, compute_dtype)
    seconds = None
    if data_seconds is not None:
        evaluated = (stages + 1) * judged / spec.num_samples * data_seconds
        referred = log_probs / plan.generation.network_calls * data_seconds
        seconds = stages * (data_seconds + plan.seconds(data_seconds)) + referred + evaluated
    figures = {
        "num_stages": stages,
        "reward_queries": queries,
        **dataclasses.asdict(plan),
        "seconds": seconds,
    }
    return figures, [
        f"nothing was done; {stages} stages would score {queries:,} images, and every stage would take",
        f"to generate {plan.generation.num_samples:,} images:",
        *say_generation(plan.generation),
        "to train:",
        *say_training(plan),
        *explain_choices(settings.train, spec),
        f"and {log_probs:,} network calls for the reference's log-probabilities in later stages",
        "of all stages together:",
        say_time(seconds),
    ]


_CHAIN = (
    "height",
    "width",
    "negative_prompt",
    "num_images_per_prompt",
    "num_inference_steps",
    "guidance_scale",
    "guidance_mode",
    "ddim_eta",
    "noisy_steps",
    "initial_noise",
    "seed",
    "batch_size",
    "images_per_shard",
    "latent_dtype",
)
"""The options that `build_spec` takes as they are."""


def _load(source: "PolicySource", *, device: str, compute_dtype: str) -> "DiffusionModel":
    from ppod_data.diffusion.models.model import load_model

    return load_model(
        source.model,
        revision=source.revision,
        variant=source.variant,
        adapter=source.adapter,
        device=device,
        compute_dtype=compute_dtype,
    )


def _callbacks(shown: Display, stages: int) -> "OnlineCallbacks":
    from ppod_train.online.records import OnlineCallbacks

    phase, done, total = "", 0, 0

    def on_phase(stage: int, name: str, units: int) -> None:
        nonlocal phase, done, total
        phase, done, total = f"stage {stage} {name}", 0, units
        shown.status(phase)

    def on_units(count: int) -> None:
        nonlocal done
        done += count
        shown.status(f"{phase} {done:,} of {total:,}")

    def on_eval(stage: int, result: "EvalResult") -> None:
        shown.say(f"online: {f'after stage {stage}' if stage else 'before'}: {eval_words(result)}")

    def on_stage(record: "StageRecord") -> None:
        from ppod_data.support.formatting import number

        times = ", ".join(
            f"{name.replace('_', '-')} {clock(s)}" for name, s in record.seconds.items() if s >= 0.5
        )
        shown.advance(1)
        if record.steps == 0:
            shown.say(
                f"online: stage {record.stage} of {stages}: the reward tells no two images of a prompt apart enough; "
                "nothing is left to learn, and the run ends"
            )
            return
        shown.say(
            f"online: stage {record.stage} of {stages}: its data's mean reward {number(record.data_reward_mean)}, "
            f"{record.outside_band_at_start:.0%} of steps outside the band at the start; {times}"
        )

    def on_finished_before(stage: int) -> None:
        shown.skip(1)
        shown.say(f"online: stage {stage} of {stages} was finished before")

    return OnlineCallbacks(
        on_phase=on_phase,
        on_units=on_units,
        on_eval=on_eval,
        on_stage=on_stage,
        on_finished_before=on_finished_before,
    )


def _say_done(out: Path, done: "OnlineSummary") -> list[Any]:
    from ppod_data.support.formatting import precision

    lines = [f"{out}: {done.stages} stages, {done.reward_queries:,} images judged"]
    if done.reward_before is not None and done.reward_best is not None:
        shown = precision([done.reward_before, done.reward_best]).number
        lines.append(
            f"validation reward {shown(done.reward_before)} → {shown(done.reward_best)} after stage {done.best_stage}"
        )
    return [*lines, *say_ended(out, out / done.policy, done.verdict)]
