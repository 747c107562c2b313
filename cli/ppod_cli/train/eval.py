"""`ppod-train eval`: a policy beside its baseline on the same seeds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ppod_cli.app.dataclass_options import given_options
from ppod_cli.app.hints import free_name, next_line
from ppod_cli.app.options import Out
from ppod_cli.app.output import Outcome, is_main
from ppod_cli.app.progress import loading, progress
from ppod_cli.app.read_prompts import prompts_of
from ppod_cli.train.ranks import run_shared
from ppod_data.cluster.settings import ProcessSettings
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError
from ppod_data.format.prompt_settings import PromptSettings
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.support.options import options_of
from ppod_train.evaluation.settings import EvalSettings

if TYPE_CHECKING:
    from ppod_train.run.compare import Comparison

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
_GUIDANCE_MODE = options_of(SamplingSettings)["guidance_mode"]
GuidanceMode = Annotated[
    Literal["batched", "sequential"] | None,
    typer.Option(
        help=_GUIDANCE_MODE.help,
        show_default="the run's, else batched",
        rich_help_panel=_GUIDANCE_MODE.panel,
    ),
]


def evaluate(
    ctx: typer.Context,
    *,
    out: Out,
    model: ModelSource,
    prompts: PromptSettings,
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
    guidance_mode: GuidanceMode = None,
    processes: ProcessSettings,
) -> Outcome | None:
    """Evaluate a policy on fixed noise that no data set was made from, beside its baseline on the same seeds.

    A policy in a run's folder is evaluated as it was trained: the run's model, prompts, sampler and reward are taken
    where no option names another. Prints a table, and writes the figures with 95 % intervals, a before/after grid and
    an HTML report to OUT.
    """
    main = is_main()
    changes = given_options(ctx, EvalSettings)
    if guidance_mode is not None:
        changes["guidance_mode"] = guidance_mode
    if prompts.is_given:
        changes["prompts"] = prompts_of(prompts)
    from ppod_train.library.ranks import eval_job

    num_policies = 1 if baseline == "none" else 2
    if run_shared(ctx, processes, lambda: eval_job(model, changes, num_policies)):
        return None
    with loading("eval", silent=not main):
        from ppod_train import compare

    with progress(0, "eval", "images", silent=not main) as display:
        done = compare(
            model,
            out,
            baseline=_baseline(baseline, baseline_adapter),
            reward=reward,
            check_reward=check_reward,
            device=processes.device,
            progress=display,
            **changes,
        )
        display.note("done")
    return Outcome({"out": str(out)} | done.summary(), _compared(done, out)) if main else None


def _baseline(model: str | None, adapter: str | None) -> str | ModelSource | None:
    """Return the policy to compare with; None for what the policy was trained from."""
    if adapter is None:
        return model
    if model == "none":
        raise ConfigError(f"--baseline none and --baseline-adapter {adapter}: leave one of them out")
    return ModelSource(model=model, adapter=adapter)


def _compared(done: "Comparison", out: Path) -> list[Any]:
    from ppod_train.evaluation.table import EvalTable
    from ppod_train.library.next_steps import image_lines

    lines = [
        EvalTable.of(done.after, done.before),
        *image_lines(done),
        *(
            f"{result.scorer.name}: {result.usage}"
            for result in (done.before, done.after)
            if result is not None and result.usage
        ),
        f"figures: {done.summary_path}",
        f"picture: {done.grid_path}",
        f"report: {done.report_path}",
    ]
    if done.run is None:
        return lines
    both = f"{free_name(f'{out}-and-run')}.html"
    return [*lines, next_line("ppod-train", "report", done.run, out, "--out", both)]
