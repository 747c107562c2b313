"""`ppod-score`: score every image of a data set with one or more reward models."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppod_cli.common import (
    Config,
    DatasetFolder,
    Debug,
    Device,
    Json,
    command,
    entry_point,
    new_commands,
    rank_and_world_size,
    resolve_device,
    summary,
)
from ppod_cli.progress import progress
from ppod_data.errors import ConfigError

if TYPE_CHECKING:
    from ppod_data.dataset import Dataset
    from ppod_data.score import ScoreSummary

commands = new_commands()

_EXAMPLES = (
    "ppod-score data --reward scenes",
    "ppod-score data --reward scenes --reward scenes-check",
    "ppod-score data --reward scenes --as scenes-again --retry-failed",
)


@command(commands, examples=_EXAMPLES)
def score(
    dataset: DatasetFolder,
    reward: Annotated[
        list[str],
        typer.Option(help="Reward model: scenes, scenes-check. Repeat the option for more.", metavar="NAME"),
    ] = ["scenes"],  # noqa: B006
    as_name: Annotated[
        str | None,
        typer.Option("--as", help="Name of the table, instead of the reward's own.", metavar="NAME"),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images that the reward model sees at once.", metavar="N")
    ] = 64,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Score the images again that failed before.")
    ] = False,
    device: Device = "auto",
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score the images of a data set: scores/NAME, one row an image.

    Run the same command again to score what is new. An image that cannot be scored gets the reason instead,
    and is never paired. Workers share the shards under torchrun or accelerate launch.
    """
    from ppod_data.dataset import Dataset
    from ppod_data.files import local_path
    from ppod_data.rewards import check_reward_name, load_reward

    if as_name is not None and len(reward) > 1:
        raise ConfigError("--as names one table: give one --reward with it")
    names = list(dict.fromkeys(check_reward_name(name) for name in reward))
    rank, world_size = rank_and_world_size()
    with summary(as_json) as report:
        opened = Dataset.open(local_path(dataset))
        place = resolve_device(device)
        done = [
            _score(
                opened,
                load_reward(name, place),
                name=as_name or name,
                batch_size=batch_size,
                retry_failed=retry_failed,
                device=place,
                rank=rank,
                world_size=world_size,
            )
            for name in names
        ]
        missing = len(opened.missing_shards())
        figures = {
            "dataset": dataset,
            "rank": rank,
            "world_size": world_size,
            "scores": [dataclasses.asdict(one) for one in done],
            "missing_shards": missing,
        }
        report(figures, _say_scored(dataset, done, missing))


def _score(dataset: "Dataset", reward: Any, *, rank: int, world_size: int, **options: Any) -> "ScoreSummary":
    from ppod_data.card import write_card
    from ppod_data.score import score as score_dataset
    from ppod_data.shards import committed_shards

    shards = [shard for shard in committed_shards(dataset.root) if shard % world_size == rank]
    sizes = {shard: len(dataset.spec.shard_range(shard)) for shard in shards}
    with progress(sum(sizes.values()), f"score {options['name']}", "images") as shown:

        def on_shard(shard: int, num_scored: int) -> None:
            shown.skip(sizes[shard] - num_scored)
            shown.note(
                f"shard {shard} of {dataset.spec.num_shards} {'scored' if num_scored else 'was there'}"
            )

        result = score_dataset(
            dataset,
            reward,
            rank=rank,
            world_size=world_size,
            on_batch=shown.advance,
            on_shard=on_shard,
            **options,
        )
    write_card(dataset.root)
    return result


def _say_scored(dataset: str, done: "list[ScoreSummary]", missing_shards: int) -> list[str]:
    lines = []
    for one in done:
        line = f"{dataset}/scores/{one.name}: {one.num_scored:,} images scored now"
        line += f", {one.num_skipped:,} were there" if one.num_skipped else ""
        line += f", {one.num_failed:,} failed ({one.first_failure})" if one.num_failed else ""
        lines.append(line)
        if one.mean is not None:
            lines.append(
                f"  {one.num_scores:,} scores: mean {one.mean:.4g}, from {one.low:.4g} to {one.high:.4g}"
            )
    if missing_shards:
        lines.append(f"{missing_shards} shards of the data set are not made yet: score again when they are")
    return [*lines, f"next: ppod-pair rank {dataset} --reward {done[0].name}"]


app = entry_point(commands, "ppod-score", out_of_memory="lower --batch-size and run the command again")

if __name__ == "__main__":
    app()
