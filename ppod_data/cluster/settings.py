"""Settings of the devices, processes and machines that share work, declared once for commands and configuration files.

The modules that start processes are imported when they are needed, because every command imports this one.
"""

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ppod_data.errors import ConfigError
from ppod_data.support.options import option, same_option

if TYPE_CHECKING:
    from ppod_data.cluster.local_processes import LocalProcesses
    from ppod_data.cluster.ray_engine import RayCluster

_PANEL = "Running"
_LAUNCHERS = ("RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION")
"""Variables of torchrun and `accelerate launch`."""
_FEW_CALLS = 2_000
"""Network evaluations that a GPU does in about the time in which processes start."""
_MANY_CALLS = 20_000
"""Network evaluations of a job that several processes share, however small the model is."""


@dataclass(frozen=True, kw_only=True)
class DeviceSettings:
    """The device of one process.

    >>> DeviceSettings(device="cpu").resolved()
    'cpu'
    """

    device: str = option(
        "auto", "auto (a GPU where there is one), cpu, cuda, cuda:1.", panel=_PANEL, metavar="D"
    )

    def resolved(self) -> str:
        """Return the torch device."""
        from ppod_data.support.processes import resolve_device

        return resolve_device(self.device)


@dataclass(frozen=True, kw_only=True)
class ProcessSettings(DeviceSettings):
    """The processes of this machine that share the work.

    >>> ProcessSettings(num_processes="4", device="cpu").local_processes()
    LocalProcesses(count=4, device='cpu')
    """

    num_processes: str = option(
        "auto",
        "Processes of this machine that share the work: auto (one a GPU, else one a core, as many as help), or N.",
        panel=_PANEL,
        metavar="auto|N",
    )

    def local_processes(self, *, shared_by: str | None = None) -> "LocalProcesses":
        """Return the processes to start; `auto` is one if something else shares the work.

        Args:
            shared_by: The option that shares the work, for example "--engine ray"; None without one.

        Raises:
            ConfigError: Neither auto nor a number from 1, or several processes in each process of a launcher.
        """
        from ppod_data.cluster.local_processes import LocalProcesses

        text = self.num_processes
        if text != "auto" and not (text.isdecimal() and int(text) > 0):
            raise ConfigError(f"--num-processes {text}: give auto, or a number from 1")
        if shared_by is None and any(name in os.environ for name in _LAUNCHERS):
            shared_by = "torchrun or accelerate launch"
        if shared_by is None:
            return LocalProcesses(count=None if text == "auto" else int(text), device=self.device)
        if text not in ("auto", "1") and shared_by != "--shards":
            raise ConfigError(
                f"--num-processes {text}: {shared_by} shares the work already, leave one of them out"
            )
        return LocalProcesses(count=1 if text == "auto" else int(text), device=self.device)


@dataclass(frozen=True, kw_only=True)
class SharingSettings:
    """The processes, array jobs or Ray cluster that share the shards of a data set.

    >>> SharingSettings(shards="0:4").shard_range
    (0, 4)
    """

    shards: str | None = option(
        None, "Only the shards from A up to, not including, B: for array jobs.", panel=_PANEL, metavar="A:B"
    )
    device: str = same_option(ProcessSettings, "device")
    num_processes: str = same_option(ProcessSettings, "num_processes")
    engine: Literal["local", "ray"] = option(
        "local",
        "Work on this machine, or on a Ray cluster whose nodes share the folder (pip install ppod\\[ray]).",
        panel=_PANEL,
    )
    ray_address: str | None = option(
        None,
        "Of the cluster, with --engine ray: auto, HOST:PORT or ray://HOST:PORT.",
        panel=_PANEL,
        metavar="ADDRESS",
        shown_default="auto, the cluster that this machine is a part of",
    )

    @property
    def shard_range(self) -> tuple[int, int] | None:
        """(A, B) of `A:B`, None without a range. Raises ConfigError for other text."""
        if self.shards is None:
            return None
        match = re.fullmatch(r"(\d+):(\d+)", self.shards)
        if match is None or int(match[1]) >= int(match[2]):
            raise ConfigError(
                f"--shards {self.shards}: write A:B with A below B, for example 0:4 for the first four"
            )
        return int(match[1]), int(match[2])

    def ray_cluster(self, world_size: int) -> "RayCluster | None":
        """Return the cluster of `--engine ray`, None for this machine.

        Raises:
            ConfigError: The options contradict each other, or a launcher shares the work already.
        """
        if self.engine != "ray":
            if self.ray_address is not None:
                raise ConfigError(
                    f"--ray-address {self.ray_address} means nothing without --engine ray: add it"
                )
            return None
        if world_size > 1:
            raise ConfigError(
                "--engine ray shares the work itself: start it without torchrun, or unset WORLD_SIZE"
            )
        from ppod_data.cluster.ray_engine import RayCluster

        return RayCluster(address=self.ray_address or "auto", device=self.device)

    def local_processes(self) -> "LocalProcesses":
        """Return the processes of this machine. Raises as `ProcessSettings.local_processes`."""
        shared_by = (
            "--engine ray" if self.engine == "ray" else "--shards" if self.shards is not None else None
        )
        processes = ProcessSettings(device=self.device, num_processes=self.num_processes)
        return processes.local_processes(shared_by=shared_by)


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
