"""`ppod-gen`: sample images and record their denoising chains, shard by shard."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppod_cli.app.errors import entry_point
from ppod_cli.app.hints import say_score
from ppod_cli.app.launch import (
    parse_shards,
    ray_cluster,
    say_deterministic,
)
from ppod_cli.app.options import (
    NEW_MODEL,
    Config,
    DatasetFolder,
    Debug,
    Device,
    DropDuplicates,
    Engine,
    Json,
    Prompt,
    PromptColumn,
    Prompts,
    RayAddress,
    Shards,
    Version,
    command,
    new_commands,
)
from ppod_cli.app.output import say_notes, summary
from ppod_cli.app.plans import say_generation
from ppod_cli.app.processes import NumProcesses, loading_device, local_processes, prepared, sharing_option
from ppod_cli.app.progress import loading, progress
from ppod_cli.app.read_prompts import prompts_of
from ppod_data.diffusion.models.source import DEFAULT_MODEL, ModelSource
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.support.formatting import clock, counted
from ppod_data.support.processes import rank_and_world_size

if TYPE_CHECKING:
    from ppod_data.diffusion.models.model import DiffusionModel
    from ppod_data.format.spec import GenerationSpec
    from ppod_data.generation.generate import GenerateSummary

commands = new_commands()

_EXAMPLES = (
    'ppod-gen data --prompt "a green colored rabbit" --prompt "a cat and a dog"',
    "ppod-gen data --prompts prompts.txt --num-images-per-prompt 256 --shards 0:4",
    "ppod-gen data --prompts prompts.txt --dry-run \\\n"
    "    --model stable-diffusion-v1-5/stable-diffusion-v1-5",
    "ppod-gen data --prompts prompts.txt --num-processes 8",
    "ppod-gen data --prompts prompts.txt --engine ray",
)

SafetyCheck = Annotated[
    bool,
    typer.Option(
        "--safety-check/--no-safety-check",
        help="Note in the column flagged what the pipeline's own safety checker says of an image; no image is changed.",
        rich_help_panel="Storage",
    ),
]
License = Annotated[
    str,
    typer.Option(
        help="Licence of the data set for its card, an SPDX identifier.",
        metavar="SPDX",
        rich_help_panel="Storage",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what it would take (bytes, network calls, time) and write nothing.",
        rich_help_panel="Running",
    ),
]


@command(commands, examples=_EXAMPLES)
def gen(
    dataset: DatasetFolder,
    *,
    model: Annotated[ModelSource, NEW_MODEL],
    prompt: Prompt = None,
    prompts: Prompts = None,
    prompt_column: PromptColumn = None,
    drop_duplicates: DropDuplicates = False,
    settings: SamplingSettings,
    safety_check: SafetyCheck = False,
    license: License = "unknown",
    shards: Shards = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    num_processes: NumProcesses = "auto",
    engine: Engine = "local",
    ray_address: RayAddress = None,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Sample images for prompts and record every denoising step with its log-probability.

    Run the same command again to continue after an interruption: finished shards are kept. The processes of this
    machine (--num-processes), of torchrun or accelerate launch, of array jobs (--shards) and of a Ray cluster share the
    shards, and make the same bytes as one process.
    """
    from ppod_data.library.datasets import new_root

    root = new_root(dataset)
    texts = prompts_of(prompt, prompts, prompt_column, drop_duplicates)
    shard_range = parse_shards(shards)
    rank, world_size = rank_and_world_size()
    ray = ray_cluster(engine, ray_address, device, world_size)
    processes = local_processes(num_processes, device, shared_by=sharing_option(engine, shards))
    with summary(as_json) as report:
        with loading("gen"):
            from ppod_data import build_spec
            from ppod_data.library.generating import make
            from ppod_data.library.plans import is_here, many_files_note, notes_on, spec_share

        calls = len(texts) * settings.num_images_per_prompt * settings.num_inference_steps
        processes = processes if dry_run else prepared(processes, calls)
        place = "cpu" if ray and not dry_run else loading_device(processes)
        loaded: DiffusionModel | None = None
        with progress(0, "gen", "images") as shown:
            shown.note(f"loading {model.model or DEFAULT_MODEL}")
            if not dry_run or is_here(model):
                loaded = model.load(place, safety_check=safety_check)
            spec = build_spec(loaded or model.load_skeleton(), texts, settings)
        say_notes(notes_on(spec, loaded))
        if dry_run or loaded is None:
            report(*_plan(spec, loaded))
            return
        chosen = spec_share(spec, shard_range, rank, world_size)
        with progress(0, "gen", "images") as shown:
            for line in many_files_note(spec):
                shown.say(line)
            made = make(
                root, spec, loaded, shards=chosen, license=license, cluster=ray or processes, progress=shown
            )
        figures = {"dataset": str(root), "rank": rank, "world_size": world_size}
        report(figures | dataclasses.asdict(made), _say_made(dataset, spec.model, made))


def _plan(spec: "GenerationSpec", model: "DiffusionModel | None") -> tuple[dict[str, Any], list[str]]:
    """model: with its weights, where they are here: to measure the time."""
    from ppod_data.library.plans import many_files_note, plan_data

    plan, seconds = plan_data(spec, model)
    time = (
        "unknown: the weights are not here" if seconds is None else f"about {clock(seconds)} in one process"
    )
    return {**dataclasses.asdict(plan), "seconds": seconds}, [
        f"{plan.num_samples:,} images in {counted(plan.num_shards, 'shard')}; nothing was written",
        *say_generation(plan),
        f"  time           {time}",
        *many_files_note(spec),
    ]


def _say_made(dataset: str, model: str, made: "GenerateSummary") -> list[str]:
    there = made.num_samples - made.num_made
    lines = [
        f"{dataset}: {made.num_made:,} images made in {clock(made.seconds)}"
        + (f", {there:,} were there" if there else "")
    ]
    lines += say_deterministic(made.deterministic_steps)
    return [*lines, *say_score(dataset, model)]


app = entry_point(
    commands,
    "ppod-gen",
    out_of_memory="lower --batch-size, or give --guidance-mode sequential or --compute-dtype fp16; "
    "all three are frozen in a data set, so use a new folder",
)

if __name__ == "__main__":
    app()
