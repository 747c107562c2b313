"""`ppod-score`: score every image of a data set with one or more reward models, or serve one to others."""

import dataclasses
from typing import Annotated

import typer

from ppod_cli.app.errors import entry_point, runner
from ppod_cli.app.hints import next_line, say_import
from ppod_cli.app.options import Host, Port, Report, Version, command, new_commands
from ppod_cli.app.output import Outcome
from ppod_cli.app.progress import loading, progress
from ppod_cli.app.unread import refuse_unread
from ppod_data.cluster.settings import SharingSettings, scoring_device
from ppod_data.errors import ConfigError
from ppod_data.support.processes import rank_and_world_size

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
_REWARD_HELP = (
    "Reward model. One of scenes, scenes-check, ocr, jpeg-compressibility, jpeg-incompressibility; or of image-reward, "
    "clip, pickscore, hpsv2, aesthetic, whose weights are downloaded, or taken from a folder: clip:FOLDER. "
    "FILE.py:FUNCTION is one of yours, http://HOST:PORT one that --serve serves, openai:URL#MODEL a judge behind an "
    "OpenAI-compatible API, flow-factory:URL#NAME and unirl:URL#REWARD rewards of their servers. "
    "Repeat the option for more."
)
_OF_SCORING = ("reward", "as_name", "retry_failed", "shards", "num_processes", "engine", "ray_address")


@command(commands, examples=_EXAMPLES)
def score(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET", help="Folder or URL of the data set; none with --serve.", show_default=False
        ),
    ] = None,
    *,
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
            rich_help_panel="Serving",
        ),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    sharing: SharingSettings,
    version: Version = False,
    report: Report,
) -> Outcome | None:
    """Score the images of a data set: scores/NAME, one row an image; or serve a reward model to others.

    Run the same command again to score what is new. An image that cannot be scored gets the reason instead,
    and is never paired. The processes of this machine (--num-processes), of torchrun or accelerate launch, of array
    jobs (--shards) and of a Ray cluster share the shards.
    """
    with loading("score"):
        from ppod_data import Dataset
        from ppod_data.library.datasets import share_of
        from ppod_data.library.lines.data import scored_lines
        from ppod_data.library.scoring import rewards_of, score_by

    if (dataset is None) == (serve is None):
        raise ConfigError("give the folder of a data set to score, or --serve NAME without one")
    if serve is not None:
        refuse_unread(context, _OF_SCORING, "is about scoring a data set: leave it out with --serve")
        _serve(serve, host, port, batch_size, sharing.device, report)
        return None
    assert dataset is not None
    refuse_unread(context, {"host", "port"}, "is about serving: give --serve NAME, or leave it out")
    if as_name is not None and len(reward or []) > 1:
        raise ConfigError("--as names one table: give one --reward with it")
    named = rewards_of(reward or [])
    shard_range = sharing.shard_range
    rank, world_size = rank_and_world_size()
    ray, processes = sharing.ray_cluster(world_size), sharing.local_processes()
    opened = Dataset.open(dataset)
    rewards = named or rewards_of([], opened)
    with progress(0, f"score {', '.join([as_name] if as_name else rewards)}", "images") as display:
        display.note(f"loading {', '.join(rewards)}")
        done = score_by(
            opened,
            rewards,
            names=[as_name] if as_name else None,
            batch_size=batch_size,
            retry_failed=retry_failed,
            shards=share_of(opened, shard_range, rank, world_size),
            device=ray or scoring_device(processes),
            progress=display,
        )
    missing = len(opened.missing_shards())
    figures = {
        "dataset": dataset,
        "rank": rank,
        "world_size": world_size,
        "scores": [dataclasses.asdict(table) for table in done],
        "missing_shards": missing,
    }
    lines = scored_lines(dataset, done, missing)
    lines.append(next_line("ppod-pair", "rank", dataset, "--reward", done[0].name))
    return Outcome(figures, lines if opened.spec.model == "scenes" else [*lines, *say_import(dataset)])


def _serve(name: str, host: str, port: int, max_images: int, device: str, report: Report) -> None:
    from ppod_data.library.serving import serve_reward

    def on_ready(name: str, revision: str, url: str) -> None:
        lines = [
            f"{name} (revision {revision}) at {url}, until interrupted",
            f"to score by it: --reward {url}",
        ]
        report(Outcome({"url": url, "name": name, "revision": revision}, lines))

    serve_reward(name, host=host, port=port, max_images=max_images, device=device, on_ready=on_ready)


app = entry_point(
    runner(commands, "ppod-score", out_of_memory="lower --batch-size and run the command again")
)

if __name__ == "__main__":
    app()
