"""`ppod-gen`: sample images and record their denoising chains, shard by shard."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from ppod_cli.app.errors import entry_point, runner
from ppod_cli.app.hints import say_score
from ppod_cli.app.options import NEW_MODEL, DatasetFolder, Version, command, new_commands
from ppod_cli.app.output import Outcome, say_notes
from ppod_cli.app.progress import loading, progress
from ppod_cli.app.read_prompts import prompts_of
from ppod_cli.app.unread import refuse_unread
from ppod_data.cluster.settings import SharingSettings, loading_device, prepared
from ppod_data.diffusion.models.source import DEFAULT_MODEL, ModelSource
from ppod_data.format.prompt_settings import PromptSettings
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.support.processes import rank_and_world_size

if TYPE_CHECKING:
    from ppod_data import GenerationSpec
    from ppod_data.diffusion.models.model import DiffusionModel

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
    context: typer.Context,
    dataset: DatasetFolder,
    *,
    model: Annotated[ModelSource, NEW_MODEL],
    prompts: PromptSettings,
    settings: SamplingSettings,
    safety_check: SafetyCheck = False,
    license: License = "unknown",
    sharing: SharingSettings,
    dry_run: DryRun = False,
    version: Version = False,
) -> Outcome:
    """Sample images for prompts and record every denoising step with its log-probability.

    Run the same command again to continue after an interruption: finished shards are kept. The processes of this
    machine (--num-processes), of torchrun or accelerate launch, of array jobs (--shards) and of a Ray cluster share the
    shards, and make the same bytes as one process.
    """
    from ppod_data.library.datasets import new_root

    if dry_run:
        refuse_unread(
            context,
            {"shards"},
            "is a share of the work, and --dry-run plans all of it: leave one of them out",
        )
    root = new_root(dataset)
    texts = prompts_of(prompts)
    shard_range = sharing.shard_range
    rank, world_size = rank_and_world_size()
    ray, processes = sharing.ray_cluster(world_size), sharing.local_processes()
    with loading("gen"):
        from ppod_data import build_spec
        from ppod_data.library.generating import make
        from ppod_data.library.lines.data import made_lines
        from ppod_data.library.plans import is_here, many_files_note, notes_on, spec_share

    calls = len(texts) * settings.num_images_per_prompt * settings.num_inference_steps
    processes = processes if dry_run else prepared(processes, calls)
    loaded: DiffusionModel | None = None
    with progress(0, "gen", "images") as display:
        display.note(f"loading {model.model or DEFAULT_MODEL}")
        if not dry_run or is_here(model):
            device = "cpu" if ray and not dry_run else loading_device(processes)
            loaded = model.load(device, safety_check=safety_check)
        spec = build_spec(loaded or model.load_skeleton(), texts, settings)
    say_notes(notes_on(spec, loaded))
    if dry_run or loaded is None:
        return _planned(spec, loaded)
    share = spec_share(spec, shard_range, rank, world_size)
    with progress(0, "gen", "images") as display:
        for line in many_files_note(spec):
            display.say(line)
        made = make(
            root, spec, loaded, shards=share, license=license, cluster=ray or processes, progress=display
        )
    figures = {"dataset": str(root), "rank": rank, "world_size": world_size}
    lines = [*made_lines(dataset, made), *say_score(dataset, spec.model)]
    return Outcome(figures | dataclasses.asdict(made), lines)


def _planned(spec: "GenerationSpec", model: "DiffusionModel | None") -> Outcome:
    """Return the summary of a dry run; `model` has its weights if they are here, and measures the time."""
    from ppod_data.library.lines.data import dry_run_lines
    from ppod_data.library.plans import plan_data

    plan, seconds = plan_data(spec, model)
    return Outcome(dataclasses.asdict(plan) | {"seconds": seconds}, dry_run_lines(spec, plan, seconds))


app = entry_point(
    runner(
        commands,
        "ppod-gen",
        out_of_memory="lower --batch-size, or give --guidance-mode sequential or --compute-dtype fp16; "
        "all three are frozen in a data set, so use a new folder",
    )
)

if __name__ == "__main__":
    app()
