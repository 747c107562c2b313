"""`ppod-train eval`: a policy beside its baseline on the same seeds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppod_cli.app.dataclass_options import given_options
from ppod_cli.app.hints import free_name, next_line
from ppod_cli.app.launch import is_main
from ppod_cli.app.options import (
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
from ppod_cli.app.processes import NumProcesses
from ppod_cli.app.progress import progress
from ppod_cli.app.read_prompts import prompts_of
from ppod_cli.train.ranks import run_shared
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError
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


def evaluate(
    ctx: typer.Context,
    *,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for what comes out.", metavar="DIR", show_default=False, callback=local_only
        ),
    ],
    model: ModelSource,
    prompt: Prompt = None,
    prompts: Prompts = None,
    prompt_column: PromptColumn = None,
    drop_duplicates: DropDuplicates = False,
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
    device: Device = "auto",
    num_processes: NumProcesses = "auto",
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a policy on fixed noise that no data set was made from, beside its baseline on the same seeds.

    A policy in a run's folder is evaluated as it was trained: the run's model, prompts, sampler and reward are taken
    where no option names another. Prints a table, and writes the figures with 95 % intervals, a before/after grid and
    an HTML report to OUT.
    """
    changes = given_options(ctx, EvalSettings)
    if prompt or prompts is not None or prompt_column is not None:
        changes["prompts"] = prompts_of(prompt, prompts, prompt_column, drop_duplicates)
    main = is_main()
    with summary(as_json, speaks=main) as report:
        from ppod_train.library.ranks import eval_job

        num_policies = 1 if baseline == "none" else 2
        if run_shared(ctx, num_processes, device, lambda: eval_job(model, changes, num_policies)):
            return
        from ppod_train import compare

        with progress(0, "eval", "images", silent=not main) as shown:
            done = compare(
                model,
                out,
                baseline=_baseline(baseline, baseline_adapter),
                reward=reward,
                check_reward=check_reward,
                device=device,
                progress=shown,
                **changes,
            )
            shown.note("done")
        report({"out": str(out), **done.summary()}, _compared(done, out))


def _baseline(model: str | None, adapter: str | None) -> str | ModelSource | None:
    """Return the policy to compare with; None for what the policy was trained from."""
    if adapter is None:
        return model
    if model == "none":
        raise ConfigError(f"--baseline none and --baseline-adapter {adapter}: leave one of them out")
    return ModelSource(model=model, adapter=adapter)


def _compared(done: "Comparison", out: Path) -> list[Any]:
    from ppod_cli.train.eval_table import EvalTable
    from ppod_train.library.next_steps import image_lines

    lines = [
        EvalTable.of(done.after, done.before),
        *image_lines(done),
        *(
            f"{one.scorer.name}: {one.usage}"
            for one in (done.before, done.after)
            if one is not None and one.usage
        ),
        f"figures: {done.summary_path}",
        f"picture: {done.grid_path}",
        f"report: {done.report_path}",
    ]
    if done.run is None:
        return lines
    both = f"{free_name(f'{out}-and-run')}.html"
    return [*lines, next_line("ppod-train", "report", done.run, out, "--out", both)]
