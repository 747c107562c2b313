"""`ppod-data`: look at a data set, and add tables to it."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppod_cli import data_integrity, options
from ppod_cli.common import (
    Config,
    DatasetFolder,
    Debug,
    Device,
    Json,
    amount,
    command,
    entry_point,
    load_policy,
    new_commands,
    rank_and_world_size,
    resolve_device,
    summary,
)
from ppod_cli.progress import progress

if TYPE_CHECKING:
    from ppod_data.dataset import Dataset
    from ppod_data.diffusion.model import DiffusionModel
    from ppod_data.log_probs import LogProbsSummary

_INFO_EXAMPLES = (
    "ppod-data info data",
    "ppod-data info data --json",
)

_LOG_PROBS_EXAMPLES = (
    "ppod-data log-probs data --name again",
    "ppod-data log-probs data --name stage-1 --adapter run/policy --batch-size 32",
)

commands = new_commands(
    "Look at a data set, and add tables to it.", examples=(_INFO_EXAMPLES[0], _LOG_PROBS_EXAMPLES[0])
)


@command(commands, examples=_INFO_EXAMPLES)
def info(dataset: DatasetFolder, config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Say what is in a data set: how it was made, how much of it is there, its scores and pairs."""
    from ppod_data.dataset import Dataset
    from ppod_data.files import local_path
    from ppod_data.spec import to_json

    with summary(as_json) as report:
        opened = Dataset.open(local_path(dataset))
        figures = _figures(opened)
        report({"dataset": dataset, "spec": to_json(opened.spec), **figures}, _say_info(opened, figures))


@command(commands, name="log-probs", examples=_LOG_PROBS_EXAMPLES)
def log_probs(
    dataset: DatasetFolder,
    name: Annotated[str, typer.Option(help="Name of the table: log_probs/NAME.", metavar="NAME")],
    model: options.PolicyModel = None,
    revision: options.PolicyRevision = None,
    adapter: options.PolicyAdapter = None,
    compute_dtype: options.PolicyComputeDtype = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Trajectories in one network call.",
            show_default="the data set's batch size",
            metavar="N",
        ),
    ] = None,
    device: Device = "auto",
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compute the log-probabilities of the recorded steps under another policy, or in other numerics.

    The table takes the place of the recorded numbers in ppod-train offline --reference-log-probs NAME. Run the
    same command again to go on after an interruption.
    """
    from ppod_data.dataset import Dataset
    from ppod_data.files import local_path

    opened = Dataset.open(local_path(dataset))
    rank, world_size = rank_and_world_size()
    with summary(as_json) as report:
        dtype = compute_dtype or opened.spec.compute_dtype
        loaded = load_policy(opened.spec, model, revision, adapter, resolve_device(device), dtype)
        done = _compute(opened, loaded, name, batch_size, rank, world_size)
        report({"dataset": dataset} | dataclasses.asdict(done), _say_computed(dataset, done))


def _compute(
    dataset: "Dataset",
    model: "DiffusionModel",
    name: str,
    batch_size: int | None,
    rank: int,
    world_size: int,
) -> "LogProbsSummary":
    from ppod_data.log_probs import compute_log_probs
    from ppod_data.shards import committed_shards

    shards = [shard for shard in committed_shards(dataset.root) if shard % world_size == rank]
    sizes = {shard: len(dataset.spec.shard_range(shard)) for shard in shards}
    with progress(sum(sizes.values()), f"log-probs {name}", "trajectories") as shown:

        def on_shard(shard: int, num_computed: int) -> None:
            shown.skip(sizes[shard] - num_computed)
            shown.note(
                f"shard {shard} of {dataset.spec.num_shards} {'computed' if num_computed else 'was there'}"
            )

        return compute_log_probs(
            dataset,
            model,
            name=name,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            on_batch=shown.advance,
            on_shard=on_shard,
        )


def _say_computed(dataset: str, done: "LogProbsSummary") -> list[str]:
    line = f"{dataset}/log_probs/{done.name}: {done.num_computed:,} trajectories computed now"
    line += f", {done.num_skipped:,} were there" if done.num_skipped else ""
    if done.max_difference is None:
        return [line]
    return [line, f"largest difference from the log-probabilities in the samples: {done.max_difference:.3g}"]


def _figures(dataset: "Dataset") -> dict[str, Any]:
    from ppod_data.shards import committed_shards

    shards = committed_shards(dataset.root)
    scores = {}
    for name in dataset.score_names():
        table = dataset.scores(name)
        scores[name] = {
            "rows": table.num_rows,
            "failed": table["score"].null_count,
            "scorer": table["scorer"][0].as_py(),
            "revision": table["revision"][0].as_py(),
        }
    pairs = {}
    for name in dataset.pair_names():
        table = dataset.pairs(name)
        made = json.loads((table.schema.metadata or {}).get(b"ppod", b"{}"))
        pairs[name] = {
            "rows": table.num_rows,
            **{key: made.get(key) for key in ("reward", "strategy", "seed")},
        }
    return {
        "fingerprint": dataset.spec.fingerprint,
        "license": dataset.manifest["license"],
        "num_samples": dataset.num_samples,
        "num_shards": len(shards),
        "missing_shards": dataset.missing_shards(),
        "bytes": {
            folder: _size(dataset.root / folder)
            for folder in ("samples", "trajectories", "scores", "labels", "pairs", "log_probs")
        },
        "scores": scores,
        "labels": {name: dataset.labels(name, ["label"]).num_rows for name in dataset.label_names()},
        "pairs": pairs,
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _say_info(dataset: "Dataset", figures: dict[str, Any]) -> list[str]:
    spec = dataset.spec
    missing = len(figures["missing_shards"])
    lines = [
        f"{dataset.root}: {figures['num_samples']:,} of {spec.num_samples:,} images of {len(spec.prompts):,} "
        f"prompts, {figures['num_shards']} of {spec.num_shards} shards",
        f"  model          {spec.model}" + (f" with {spec.adapter}" if spec.adapter else ""),
        f"  chain          {spec.num_inference_steps} steps, ddim_eta {spec.ddim_eta:g}, guidance "
        f"{spec.guidance_scale:g}, {spec.latent_dtype} latents {'x'.join(map(str, spec.latent_shape))}",
        f"  images         {spec.width}x{spec.height} pixels, seed {spec.seed}",
        f"  licence        {figures['license']}",
        f"  fingerprint    {figures['fingerprint']}",
    ]
    lines += [f"  {folder:<14} {amount(size)}" for folder, size in figures["bytes"].items() if size]
    for name, one in figures["scores"].items():
        failed = f", {one['failed']:,} failed" if one["failed"] else ""
        lines.append(f"  scores {name}: {one['rows']:,} by {one['scorer']} {one['revision']}{failed}")
    for name, rows in figures["labels"].items():
        lines.append(f"  labels {name}: {rows:,} by people")
    for name, one in figures["pairs"].items():
        ranked = f" by {one['reward']}, {one['strategy']}" if one["reward"] else ""
        lines.append(f"  pairs {name}: {one['rows']:,}{ranked}")
    if missing:
        lines.append(f"{missing} shards are not made yet: run the same ppod-gen command again")
    elif not figures["scores"]:
        lines.append(f"next: ppod-score {dataset.root} --reward scenes")
    return lines


data_integrity.register(commands)

app = entry_point(commands, "ppod-data", out_of_memory="lower --batch-size, or give --compute-dtype bf16")

if __name__ == "__main__":
    app()
