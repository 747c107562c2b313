"""`ppod-train eval`: a policy beside its baseline on the same seeds."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppod_cli.app import sampling_options
from ppod_cli.app.hints import free_name, next_line
from ppod_cli.app.options import Config, Debug, Device, Json, local_only
from ppod_cli.app.output import say_notes, summary
from ppod_cli.app.progress import progress
from ppod_cli.app.prompt_notes import cut_notes, skeleton_of
from ppod_cli.app.read_prompts import prompts_of
from ppod_cli.app.usual_reward import usual_reward_of
from ppod_cli.train.workers import leads, started_workers
from ppod_data.errors import ConfigError
from ppod_train.evaluation.settings import EvalSettings

if TYPE_CHECKING:
    from ppod_data.rewards import RewardModel
    from ppod_train.policy.source import PolicySource
    from ppod_train.run.compare import Comparison
    from ppod_train.run.run_record import RunRecord

EVAL_EXAMPLES = (
    "ppod-train eval --out result --adapter run/policy",
    "ppod-train eval --out result --adapter run/policy --prompts prompts.txt",
    'ppod-train eval --out result --adapter run/policy --prompt "a cat on the moon"',
    "ppod-train eval --out result --adapter run-b/policy \\\n    --baseline-adapter run-a/policy",
)
CheckReward = Annotated[
    str | None,
    typer.Option(
        help="Second reward model, never trained on, to see reward hacking; none for none.",
        show_default="scenes-check for scenes, else none",
        metavar="NAME",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        help="Model to compare with on the same seeds; none for none.",
        show_default="the model without its adapter",
        metavar="ID",
    ),
]
BaselineAdapter = Annotated[
    str | None,
    typer.Option(
        help="LoRA of the baseline, RUN/policy of another run: two policies on the same seeds.",
        show_default=False,
        metavar="DIR",
    ),
]
_OF_THE_RUN = (
    "height",
    "width",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "ddim_eta",
    "noisy_steps",
)
"""Settings that are those of the run that trained the policy, unless an option names another."""


def evaluate(
    ctx: typer.Context,
    *,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for what comes out.", metavar="DIR", show_default=False, callback=local_only
        ),
    ],
    model: sampling_options.Model = "scenes",
    revision: sampling_options.Revision = None,
    variant: sampling_options.Variant = None,
    adapter: sampling_options.Adapter = None,
    prompt: sampling_options.Prompt = None,
    prompts: sampling_options.Prompts = None,
    prompt_column: sampling_options.PromptColumn = None,
    drop_duplicates: sampling_options.DropDuplicates = False,
    reward: Annotated[
        str | None,
        typer.Option(
            help="Reward model that judges the images.",
            show_default="the run's, or scenes for the model scenes",
            metavar="NAME",
        ),
    ] = None,
    check_reward: CheckReward = None,
    baseline: Baseline = None,
    baseline_adapter: BaselineAdapter = None,
    settings: EvalSettings,
    compute_dtype: sampling_options.ComputeDtype = "fp32",
    device: Device = "auto",
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a policy on fixed noise that no data set was made from, beside its baseline on the same seeds.

    A policy in a run's folder is evaluated as it was trained: the run's model, prompts, sampler and reward are taken
    where no option names another. Prints a table, and writes the figures with 95 % intervals, a before/after grid and
    an HTML report to OUT.
    """
    from ppod_data.rewards import check_reward_name
    from ppod_data.storage.folder_kinds import EVALUATION, check_out
    from ppod_train.evaluation.check import check_name
    from ppod_train.run.run_record import run_of

    check_out(out, EVALUATION)
    run = run_of(adapter) or run_of(model)
    given = {**ctx.params, **_followed(ctx, run)}
    if run is not None and not prompt and prompts is None and prompt_column is None:
        texts = run.prompts
    else:
        texts = prompts_of(prompt, prompts, prompt_column, drop_duplicates)
    if reward is not None:
        check_reward_name(reward)
    elif run is None or run.judge is None:
        reward = usual_reward_of(str(given["model"]), "the images")
    judge_name = reward or (run.judge.name if run and run.judge else "")
    check = check_name(check_reward, judge_name)
    with summary(as_json, speaks=leads()) as report:
        from ppod_train.policy.source import PolicySource

        named = {"revision": given["revision"], "variant": given["variant"]}
        policy = PolicySource(model=str(given["model"]), adapter=adapter, **named)
        before = _baseline(policy, run, baseline, baseline_adapter)
        skeleton = skeleton_of(policy.model, policy.revision)
        say_notes(cut_notes(skeleton, texts, given["negative_prompt"]))
        sampled = {name: given[name] for name in _OF_THE_RUN}
        settings = dataclasses.replace(settings, prompts=texts, **sampled)
        settings.validate()
        done = _evaluate(policy, before, out, settings, (reward, run, check), device, given["compute_dtype"])
        report({"out": str(out), **done.summary()}, _say_evaluated(done, out, run))


def _followed(ctx: typer.Context, run: "RunRecord | None") -> Mapping[str, Any]:
    """What the run says of the options that were not given: how its policy's images are made."""
    if run is None:
        return {}
    values = {
        name: run.generation[name] for name in (*_OF_THE_RUN, "compute_dtype") if name in run.generation
    }
    if not run.whole:
        values |= {"model": run.model, **{name: run.generation.get(name) for name in ("revision", "variant")}}
    not_given = {
        name
        for name in values
        if (source := ctx.get_parameter_source(name)) is None or source.name == "DEFAULT"
    }
    if "num_inference_steps" not in not_given:
        not_given.discard("noisy_steps")  # a range of another number of steps
    if "model" in values and "model" not in not_given:
        not_given -= {"revision", "variant"}
    return {name: values[name] for name in not_given}


def _baseline(
    policy: "PolicySource", run: "RunRecord | None", model: str | None, adapter: str | None
) -> "PolicySource | None":
    """The policy to compare with: the named one, or what the policy was trained from.

    Raises:
        ConfigError: a LoRA is named where a model belongs.
    """
    from ppod_train.policy.source import PolicySource

    if model is not None and model != "none" and _is_lora(model):
        raise ConfigError(
            f"--baseline {model} is an adapter, not a model: give it as --baseline-adapter {model}, to compare on the "
            "same model"
        )
    if model == "none":
        if adapter is not None:
            raise ConfigError(f"--baseline none and --baseline-adapter {adapter}: leave one of them out")
        return None
    if adapter is not None:
        base = policy if model is None else PolicySource(model=model)
        return dataclasses.replace(base, adapter=adapter)
    if model is not None:
        return PolicySource(model=model)
    if policy.adapter is not None:
        return dataclasses.replace(policy, adapter=None)
    if run is not None and run.whole:
        named = {name: run.generation.get(name) for name in ("revision", "variant")}
        return PolicySource(model=run.model, **named)
    return None


def _is_lora(folder: str) -> bool:
    path = Path(folder)
    return path.is_dir() and not (path / "model_index.json").exists() and any(path.glob("*.safetensors"))


def _evaluate(
    policy: "PolicySource",
    baseline: "PolicySource | None",
    out: Path,
    settings: EvalSettings,
    judges: "tuple[str | None, RunRecord | None, str | None]",
    device: str,
    compute_dtype: str,
) -> "Comparison":
    """judges: the reward that was named, else the run whose judge is taken, and the check reward."""
    from ppod_data.inspect.judge import load_judge
    from ppod_data.rewards import load_reward
    from ppod_train.run.compare import run_evaluation

    named, run, check = judges
    policies = 1 if baseline is None else 2
    total = policies * len(settings.prompts) * settings.num_images_per_prompt
    with started_workers(device) as workers:
        judge: RewardModel
        if named is None and run is not None and run.judge is not None:
            judge = load_judge(run.judge, workers.device)
        else:
            assert named is not None, "a reward was chosen"
            judge = load_reward(named, workers.device)
        own = -(-total // workers.world_size)
        with progress(own, "eval", "images", silent=not workers.is_main) as shown:
            done = run_evaluation(
                policy,
                out,
                judge,
                settings,
                baseline=baseline,
                check_reward=load_reward(check, workers.device) if check else None,
                device=workers.device,
                compute_dtype=compute_dtype,
                on_batch=shown.advance,
                workers=workers,
            )
            shown.note("done")
    return done


def _say_images(done: "Comparison") -> list[str]:
    """Return a line on the images' statistics that moved from the baseline's, and the verdict."""
    from ppod_train.evaluation.exploitation import moved
    from ppod_train.report.runs import read_run
    from ppod_train.report.verdict import verdict

    if done.before is None:
        return []
    changed = moved({name: dataclasses.asdict(change) for name, change in done.after.images.items()})
    lines = [f"images: {', '.join(changed)}"] if changed else []
    return [*lines, verdict(read_run(done.summary_path.parent))]


def _say_evaluated(done: "Comparison", out: Path, run: "RunRecord | None") -> list[Any]:
    from ppod_cli.train.eval_table import EvalTable

    lines = [
        EvalTable.of(done.after, done.before),
        *_say_images(done),
        f"figures: {done.summary_path}",
        f"picture: {done.grid_path}",
        f"report: {done.report_path}",
    ]
    if run is None:
        return lines
    both = f"{free_name(f'{out}-and-run')}.html"
    return [*lines, next_line("ppod-train", "report", run.shown, out, "--out", both)]
