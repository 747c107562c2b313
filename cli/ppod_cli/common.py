"""What the commands share: errors as one line, common options, ranks, the summary at the end."""

import errno
import inspect
import io
import json
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from ppod_cli.config import load_config
from ppod_cli.once import OnceCommand
from ppod_data.errors import ConfigError, PpodError
from ppod_data.memory import is_out_of_memory

if TYPE_CHECKING:
    from ppod_data.diffusion.model import DiffusionModel
    from ppod_data.ray_engine import RayCluster
    from ppod_data.spec import GenerationSpec

_TURNING = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
_INTERRUPTED = 130
_LOG_WIDTH = 110

Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file with options of this command under the same names; options given here win.",
        metavar="FILE",
        callback=load_config,
        is_eager=True,
        rich_help_panel="Running",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print a machine-readable summary on stdout, and nothing else there.",
        rich_help_panel="Running",
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel="Running")
]
Device = Annotated[
    str,
    typer.Option(
        help="auto (a GPU where there is one), cpu, cuda, cuda:1.",
        metavar="D",
        rich_help_panel="Running",
    ),
]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(
        help="Work in this process, or on a Ray cluster whose nodes share the folder (pip install ppod\\[ray]).",
        rich_help_panel="Running",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Of the cluster, with --engine ray: auto, HOST:PORT or ray://HOST:PORT.",
        show_default="auto, the cluster that this machine is a part of",
        metavar="ADDRESS",
        rich_help_panel="Running",
    ),
]
Shards = Annotated[
    str | None,
    typer.Option(
        help="Only the shards from A up to, not including, B: for array jobs.",
        metavar="A:B",
        rich_help_panel="Running",
    ),
]
DatasetFolder = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="Folder of the data set, or its URL: s3://, gs://, az://; hf:// to read.",
        show_default=False,
    ),
]


def local_only(path: Path | None) -> Path | None:
    """The callback of options that name a local file or folder. Raises ConfigError for a URL."""
    from ppod_data.files import local_path

    return None if path is None else local_path(path)


def new_commands(help: str | None = None, examples: Sequence[str] = ()) -> typer.Typer:
    """A Typer app with our conventions; `entry_point` makes a console script of it.

    With `help` it has sub-commands, also where there is only one of them.
    """
    commands = typer.Typer(
        help=help,
        epilog=_epilog(examples),
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    if help is not None:
        commands.callback()(lambda: None)
    return commands


def command(
    commands: typer.Typer, *, name: str | None = None, examples: Sequence[str]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the decorated function to `commands`; its docstring and the runnable `examples` are the help."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        text = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
        return commands.command(name, cls=OnceCommand, help=text, epilog=_epilog(examples))(function)

    return add


def _epilog(examples: Sequence[str]) -> str:
    return "\n".join(["Examples:", *examples])


def entry_point(commands: typer.Typer, name: str, *, out_of_memory: str) -> Callable[..., None]:
    """The function behind a console script: runs `commands` and ends the process with its exit code.

    Args:
        name: of the script, for usage lines.
        out_of_memory: what to type when memory runs out.
    """

    def app(args: Sequence[str] | None = None) -> None:
        arguments = sys.argv[1:] if args is None else list(args)
        _write_what_can_be_written()
        root = typer.main.get_command(commands)
        if not arguments and hasattr(root, "commands"):
            arguments = ["--help"]
        try:
            code = root(arguments, prog_name=name, standalone_mode=False)
        except Exception as error:
            if "--debug" in arguments:
                traceback.print_exc()
            message, code = explain(error, name, out_of_memory)
            _print_error(message)
        if code == _INTERRUPTED:
            _print_error("interrupted: run the same command again to go on")
        raise SystemExit(code or 0)

    return app


def _write_what_can_be_written() -> None:
    """Replace letters that the terminal's or pipe's encoding does not have, instead of ending with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def explain(error: Exception, name: str, out_of_memory: str) -> tuple[str, int]:
    """The line that a user reads and the exit code: 2 for options and input, 1 for a failure of the world,
    3 for damage."""
    if isinstance(error, PpodError):
        return str(error), error.exit_code
    if isinstance(error, typer.TyperException):
        return _explain_usage(error, name), 2
    if is_out_of_memory(error):
        return f"out of memory: {out_of_memory}", 1
    if isinstance(error, OSError):
        return _explain_os_error(error), 1
    detail = str(error) or "no message"
    return f"{type(error).__name__}: {detail} (--debug shows where)", 1


def _explain_usage(error: typer.TyperException, name: str) -> str:
    """The message, and the help of the command that was misused."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else name
    message = error.format_message().rstrip(".").replace(": Value error, ", ": ")
    return f"{_with_value(message, error)}: see {command} --help"


def _with_value(message: str, error: typer.TyperException) -> str:
    """Return the message of a number that is out of range or no number, with the number's value."""
    from pydantic import ValidationError

    if not isinstance(error.__cause__, ValidationError):
        return message
    detail = error.__cause__.errors()[0]
    rules = {
        "greater_than_equal": "must be at least {ge:g}",
        "less_than_equal": "must be at most {le:g}",
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_parsing": "must be a number",
    }
    if detail["type"] not in rules:
        return message
    rule = rules[detail["type"]].format_map(detail.get("ctx", {}))
    return f"{message.removesuffix(detail['msg'])}{rule}, not {detail['input']}"


def _explain_os_error(error: OSError) -> str:
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left{where}: free space and run the same command again: finished shards are kept"
    if error.errno == errno.EFBIG:
        return f"a file may not be this large{where}: raise the limit of ulimit -f, and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission{where} ({error.strerror}): check the permissions, or give another folder"
    return f"{error.strerror or error}{where}"


def _print_error(message: str) -> None:
    rank = os.environ.get("RANK", "0")
    where = "" if rank == "0" else f"process {printable(rank)}: "
    print(f"error: {where}{printable(' '.join(message.split()))}", file=sys.stderr)


def printable(text: str) -> str:
    """The text without control characters, lone surrogates, and marks that turn the direction of what follows: names
    and prompts of a stranger's data set reach the terminal."""
    return "".join("?" if _is_unsafe(character) else character for character in text)


def _is_unsafe(character: str) -> bool:
    turning = unicodedata.bidirectional(character) in _TURNING
    return turning or unicodedata.category(character) in ("Cc", "Cs")


def say_notes(notes: Sequence[str]) -> None:
    """Print notes on stderr, a line each; of processes that work together, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            print(f"note: {printable(note)}", file=sys.stderr, flush=True)


@contextmanager
def summary(
    as_json: bool, *, speaks: bool = True
) -> Iterator[Callable[[Mapping[str, Any], Sequence[Any]], None]]:
    """Gives the function that prints a command's summary: (the figures for --json, the lines for people).

    A line is a text or what rich can print, such as a table. Under --json, whatever libraries print meanwhile goes
    to stderr, so that stdout holds one JSON object. Of processes that do one thing together, one speaks.
    """
    stdout = sys.stdout

    def report(figures: Mapping[str, Any], lines: Sequence[Any]) -> None:
        if not speaks:
            return
        if as_json:
            print(json.dumps(figures, allow_nan=False, ensure_ascii=False), file=stdout, flush=True)
            return
        for line in lines:
            if isinstance(line, str):
                print(printable(line), file=stdout, flush=True)
            else:
                _print_rich(line, stdout)

    with redirect_stdout(sys.stderr if as_json else stdout):
        yield report


def _print_rich(renderable: Any, stdout: TextIO) -> None:
    from rich.console import Console

    width = None if stdout.isatty() else _LOG_WIDTH
    Console(file=stdout, width=width).print(renderable)


def rank_and_world_size() -> tuple[int, int]:
    """RANK and WORLD_SIZE as torchrun and `accelerate launch` set them; (0, 1) without them.

    Says so where `accelerate launch` started one process: on CPUs it does whatever --num_processes is.

    Raises:
        ConfigError: values that are no rank of a world.
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "WORLD_SIZE" not in os.environ:
        print(
            "note: accelerate launch started one process; for more of them on CPUs use torchrun --nproc-per-node N",
            file=sys.stderr,
        )
    rank, world_size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)):
        raise ConfigError(
            f"RANK={rank}, WORLD_SIZE={world_size} are no rank of a world: unset both variables"
        )
    return int(rank), int(world_size)


def parse_shards(text: str | None) -> tuple[int, int] | None:
    """(A, B) of `A:B`. Raises ConfigError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f"--shards {text}: write A:B with A below B, for example 0:4 for the first four")
    return int(match[1]), int(match[2])


def ray_cluster(engine: str, address: str | None, device: str, world_size: int) -> "RayCluster | None":
    """What the options ask for; None for this process. Raises ConfigError where they contradict each other."""
    if engine != "ray":
        if address is not None:
            raise ConfigError(f"--ray-address {address} means nothing without --engine ray: add it")
        return None
    if world_size > 1:
        raise ConfigError(
            "--engine ray shares the work itself: start it without torchrun, or unset WORLD_SIZE"
        )
    from ppod_data.ray_engine import RayCluster

    return RayCluster(address=address or "auto", device=device)


@contextmanager
def workers_of(cluster: "RayCluster | None") -> Iterator[str | None]:
    """The device of a cluster's workers, "cpu" or "cuda"; None where the work is done in this process."""
    if cluster is None:
        yield None
        return
    from ppod_data.ray_engine import connected

    with connected(cluster) as place:
        yield place


def resolve_device(text: str) -> str:
    """The torch device to use; under torchrun, `auto` and `cuda` mean the GPU of this process's LOCAL_RANK.

    Raises:
        ConfigError: a device that torch does not know or does not see.
    """
    import torch

    local_rank = os.environ.get("LOCAL_RANK", "0")
    if text == "auto":
        if torch.cuda.is_available():
            return f"cuda:{int(local_rank) % torch.cuda.device_count()}"
        return "cpu"
    if text.partition(":")[0] == "mps":
        raise ConfigError(
            f"device {text} has no fp64, which log-probabilities are summed in: give --device cpu"
        )
    if text == "cuda" and "LOCAL_RANK" in os.environ:
        text = f"cuda:{local_rank}"
    try:
        torch.empty(0, device=torch.device(text))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {text} cannot be used here ({reason}): give --device cpu") from error
    return text


def load_policy(
    spec: "GenerationSpec",
    model: str | None,
    revision: str | None,
    variant: str | None,
    adapter: str | None,
    device: str,
    compute_dtype: str,
) -> "DiffusionModel":
    """The policy that made a data set; another model or adapter where the options name one."""
    from ppod_data.diffusion.model import load_model

    if model is None:
        model, revision, adapter = spec.model, revision or spec.revision, adapter or spec.adapter
        variant = variant or spec.variant
    return load_model(
        model,
        revision=revision,
        variant=variant,
        adapter=adapter,
        device=device,
        compute_dtype=compute_dtype,
    )


def usual_reward(model: str) -> str:
    """The reward to suggest for images of a model: its own for scenes, which reads no others."""
    return "scenes" if model == "scenes" else "image-reward"


def say_deterministic(steps: Sequence[int]) -> list[str]:
    """A line on steps that have no noise; none where there are none."""
    if not steps:
        return []
    named = ", ".join(map(str, steps))
    return [f"steps without noise, which have no log-probability and are left out of the loss: {named}"]


def counted(count: int, noun: str) -> str:
    """A number with its noun, in the singular where there is one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def amount(count: float) -> str:
    """A number of bytes, as `12.3 MB` (10^6 bytes)."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
