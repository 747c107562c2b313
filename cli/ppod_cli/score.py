"""`ppod-score`: score every image of a data set with one or more reward models, or serve one to others."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from ppod_cli.app.errors import entry_point
from ppod_cli.app.hints import next_line, say_import
from ppod_cli.app.launch import parse_shards, ray_cluster
from ppod_cli.app.options import (
    Config,
    Debug,
    Device,
    Engine,
    Json,
    RayAddress,
    Shards,
    Version,
    command,
    new_commands,
)
from ppod_cli.app.output import summary
from ppod_cli.app.processes import NumProcesses, local_processes, scoring_device, sharing_option
from ppod_cli.app.progress import progress
from ppod_data.errors import ConfigError
from ppod_data.support.processes import rank_and_world_size

if TYPE_CHECKING:
    from ppod_data.rewards import RewardModel
    from ppod_data.scoring.score import ScoreSummary

commands = new_commands()

_EXAMPLES = (
    "ppod-score data --reward scenes",
    "ppod-score data --reward scenes --reward scenes-check",
    "ppod-score data --reward scenes --as scenes-again --retry-failed",
    "ppod-score data --reward image-reward --reward clip:/models/clip-vit-b-32",
    "ppod-score data --reward my_rewards.py:brightness",
    "ppod-score data --reward image-reward --engine ray",
    "ppod-score --serve image-reward --port 8000",
    "ppod-score data --reward http://127.0.0.1:8000",
    "ppod-score data --reward 'openai:http://127.0.0.1:8000/v1#Qwen2.5-VL'",
)
_SERVING = "Serving"
_REWARD_HELP = (
    "Reward model. One of scenes, scenes-check, ocr, jpeg-compressibility, jpeg-incompressibility; or of image-reward, "
    "clip, pickscore, hpsv2, aesthetic, whose weights are downloaded, or taken from a folder: clip:FOLDER. "
    "FILE.py:FUNCTION is one of yours, http://HOST:PORT one that --serve serves, openai:URL#MODEL a judge behind an "
    "OpenAI-compatible API, flow-factory:URL#NAME and unirl:URL#REWARD rewards of their servers. "
    "Repeat the option for more."
)


@command(commands, examples=_EXAMPLES)
def score(
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET", help="Folder or URL of the data set; none with --serve.", show_default=False
        ),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(help=_REWARD_HELP, show_default="scenes for the model scenes", metavar="NAME"),
    ] = None,
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
    serve: Annotated[
        str | None,
        typer.Option(
            help="Serve this reward model over HTTP until interrupted, instead of scoring; --batch-size is the most "
            "images of a request.",
            metavar="NAME",
            rich_help_panel=_SERVING,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Address to serve on.", metavar="HOST", rich_help_panel=_SERVING),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port; 0 takes a free one.", metavar="N", rich_help_panel=_SERVING
        ),
    ] = 8000,
    shards: Shards = None,
    device: Device = "auto",
    num_processes: NumProcesses = "auto",
    engine: Engine = "local",
    ray_address: RayAddress = None,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Score the images of a data set: scores/NAME, one row an image; or serve a reward model to others.

    Run the same command again to score what is new. An image that cannot be scored gets the reason instead,
    and is never paired. The processes of this machine (--num-processes), of torchrun or accelerate launch, of array
    jobs (--shards) and of a Ray cluster share the shards.
    """
    from ppod_data import Dataset
    from ppod_data.library.datasets import share_of
    from ppod_data.library.scoring import rewards_of, score_by

    if (dataset is None) == (serve is None):
        raise ConfigError("give the folder of a data set to score, or --serve NAME without one")
    if serve is not None:
        _serve(serve, host, port, batch_size, device, as_json)
        return
    assert dataset is not None
    if as_name is not None and len(reward or []) > 1:
        raise ConfigError("--as names one table: give one --reward with it")
    named = rewards_of(reward or [])
    shard_range = parse_shards(shards)
    rank, world_size = rank_and_world_size()
    ray = ray_cluster(engine, ray_address, device, world_size)
    processes = local_processes(num_processes, device, shared_by=sharing_option(engine, shards))
    with summary(as_json) as report:
        opened = Dataset.open(dataset)
        asked = named or rewards_of([], opened)
        share = share_of(opened, shard_range, rank, world_size)
        with progress(0, f"score {', '.join([as_name] if as_name else asked)}", "images") as shown:
            done = score_by(
                opened,
                asked,
                names=[as_name] if as_name else None,
                batch_size=batch_size,
                retry_failed=retry_failed,
                shards=share,
                device=ray or scoring_device(processes),
                progress=shown,
            )
        missing = len(opened.missing_shards())
        figures = {
            "dataset": dataset,
            "rank": rank,
            "world_size": world_size,
            "scores": [dataclasses.asdict(one) for one in done],
            "missing_shards": missing,
        }
        report(figures, _say_scored(dataset, opened.spec.model, done, missing))


def _serve(name: str, host: str, port: int, max_images: int, device: str, as_json: bool) -> None:
    from ppod_data.library.serving import serve_reward

    with summary(as_json) as report:

        def on_ready(model: "RewardModel", url: str) -> None:
            figures = {"url": url, "name": model.name, "revision": model.revision}
            lines = [
                f"{model.name} (revision {model.revision}) at {url}, until interrupted",
                f"to score by it: --reward {url}",
            ]
            report(figures, lines)

        serve_reward(name, host=host, port=port, max_images=max_images, device=device, on_ready=on_ready)


def _say_scored(dataset: str, model: str, done: "list[ScoreSummary]", missing_shards: int) -> list[str]:
    from ppod_data.support.formatting import precision

    lines = []
    for one in done:
        line = f"{dataset}/scores/{one.name}: {one.num_scored:,} images scored now"
        line += f", {one.num_skipped:,} were there" if one.num_skipped else ""
        line += f", {one.num_failed:,} failed ({one.first_failure})" if one.num_failed else ""
        lines.append(line)
        if one.mean is not None:
            shown = precision([one.mean, one.low, one.high]).number
            lines.append(
                f"  {one.num_scores:,} scores: mean {shown(one.mean)}, from {shown(one.low)} to {shown(one.high)}"
            )
        if one.usage is not None:
            lines.append(f"  {one.usage}")
    if missing_shards:
        lines.append(f"{missing_shards} shards of the data set are not made yet: score again when they are")
    lines.append(next_line("ppod-pair", "rank", dataset, "--reward", done[0].name))
    return lines if model == "scenes" else [*lines, *say_import(dataset)]


app = entry_point(commands, "ppod-score", out_of_memory="lower --batch-size and run the command again")

if __name__ == "__main__":
    app()
