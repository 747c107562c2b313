"""`--num-processes`: the processes that a command starts on this machine."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ppod_data.errors import ConfigError

if TYPE_CHECKING:
    from ppod_data.cluster.local_processes import LocalProcesses

NumProcesses = Annotated[
    str,
    typer.Option(
        help="Processes of this machine that share the work: auto (one a GPU, else one a core, as many as help), or N.",
        metavar="auto|N",
        rich_help_panel="Running",
    ),
]
_LAUNCHERS = ("RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION")
"""Variables of torchrun and `accelerate launch`."""
_FEW_CALLS = 2_000
"""Network evaluations that a GPU does in about the time in which processes start."""
_MANY_CALLS = 20_000
"""Network evaluations of a job that several processes share, however small the model is."""


def local_processes(text: str, device: str, *, shared_by: str | None = None) -> "LocalProcesses":
    """Return the processes that `--num-processes` asks for; `auto` is one if something else shares the work.

    Args:
        text: `--num-processes`.
        device: `--device`.
        shared_by: the option that shares the work, for example "--engine ray"; None without one.

    Raises:
        ConfigError: neither auto nor a number from 1, or several processes in each process of a launcher.
    """
    from ppod_data.cluster.local_processes import LocalProcesses

    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise ConfigError(f"--num-processes {text}: give auto, or a number from 1")
    if shared_by is None and any(name in os.environ for name in _LAUNCHERS):
        shared_by = "torchrun or accelerate launch"
    if shared_by is None:
        return LocalProcesses(count=None if text == "auto" else int(text), device=device)
    if text not in ("auto", "1") and shared_by != "--shards":
        raise ConfigError(
            f"--num-processes {text}: {shared_by} shares the work already, leave one of them out"
        )
    return LocalProcesses(count=1 if text == "auto" else int(text), device=device)


def sharing_option(engine: str, shards: str | None) -> str | None:
    """Return the option that shares a job among machines, None without one."""
    return "--engine ray" if engine == "ray" else "--shards" if shards is not None else None


def prepared(processes: "LocalProcesses", calls: int) -> "LocalProcesses":
    """Start importing what other processes need if a job of `calls` network evaluations is large.

    A small job on GPUs is left to one process, because the model is loaded on the GPU before the job is known.
    """
    from ppod_data.cluster.local_engine import start_server
    from ppod_data.cluster.local_processes import most_processes
    from ppod_data.support.machine import num_gpus

    if processes.count is None and calls < _FEW_CALLS and num_gpus(processes.device):
        return replace(processes, count=1)
    if most_processes(processes) > 1 and (processes.count is not None or calls >= _MANY_CALLS):
        start_server()
    return processes


def loading_device(processes: "LocalProcesses") -> str:
    """Return the device on which the command itself loads a model: the CPU if processes will use several GPUs."""
    from ppod_data.cluster.local_processes import most_processes
    from ppod_data.support.machine import num_gpus
    from ppod_data.support.processes import resolve_device

    if num_gpus(processes.device) > 1 and most_processes(processes) > 1:
        return "cpu"
    return resolve_device(processes.device)


def scoring_device(processes: "LocalProcesses") -> "str | LocalProcesses":
    """Return the processes that score, or the device if there is a single process."""
    from ppod_data.cluster.local_processes import most_processes
    from ppod_data.support.processes import resolve_device

    device = resolve_device(processes.device)
    return processes if most_processes(processes) > 1 else device
