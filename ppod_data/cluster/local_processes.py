"""The number of processes that a command starts on this machine.

`auto` starts one process on every GPU, or else on every physical core. It starts no more than there are shards to
share or than fit into memory, and a single one for work that ends about as soon as other processes are ready.
"""

from dataclasses import dataclass

from ppod_data.errors import ConfigError
from ppod_data.support.formatting import amount, counted
from ppod_data.support.machine import available_memory, num_cores, num_gpus

_MEMORY_SHARE = 0.8
"""Share of the available memory that processes may take."""
_IMPORTS_BYTES = 500_000_000
"""Memory of a process beside its models: what it does not share with the others."""
_WORTH_FLOPS = {"cpu": 4e11, "cuda": 4e14}
"""Work of about 25 seconds on one core or GPU; less is done about as soon by a single process."""
_FLOPS_PER_WEIGHT = 0.2
"""Floating-point operations of a network evaluation for each weight and latent position.

Of the embedded network 0.66, of Stable Diffusion 1.5 0.2. Only the order of magnitude matters."""


@dataclass(frozen=True, kw_only=True)
class LocalProcesses:
    """Processes of this machine, one for each device, as the user asked for them."""

    count: int | None = None
    """None for as many as help (`auto`)."""
    device: str = "auto"
    """"cpu", "cuda" (one GPU a process), or "auto": GPUs if the machine has any."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The processes of a job."""

    devices: tuple[str, ...]
    """One for each process: ("cpu", "cpu") or ("cuda:0", "cuda:1")."""
    reason: str = ""
    """The number and its reason in one line; empty if there is nothing to say."""


def most_processes(processes: LocalProcesses) -> int:
    """Return the largest number of processes on this machine.

    Raises:
        ConfigError: more processes than GPUs.
    """
    gpus = num_gpus(processes.device)
    if processes.count is None:
        return gpus or num_cores()
    if gpus and processes.count > gpus:
        raise ConfigError(
            f"--num-processes {processes.count} needs a GPU for each process, and there are {gpus}: lower it, or give "
            "--device cpu"
        )
    return processes.count


def choose_processes(processes: LocalProcesses, *, shares: int, memory: int) -> Choice:
    """Choose the processes of a job.

    Args:
        processes: what the user asked for.
        shares: parts into which the job can be divided, such as shards.
        memory: bytes that a process on a CPU takes beside its imports.
    """
    most = most_processes(processes)
    count = max(1, min(most, shares))
    if num_gpus(processes.device):
        is_numbered = ":" in processes.device
        devices = (processes.device,) if is_numbered else tuple(f"cuda:{index}" for index in range(count))
        return Choice(devices=devices, reason=f"one process on each of {count} GPUs" if count > 1 else "")
    if processes.count is not None or count == 1:
        return Choice(devices=("cpu",) * count)
    each, free = memory + _IMPORTS_BYTES, available_memory()
    fitting = max(1, int(free * _MEMORY_SHARE / each))
    reason = f"{counted(count, 'process', 'processes')} on {counted(most, 'core')}"
    if fitting < count:
        count = fitting
        reason = f"{counted(count, 'process', 'processes')} on {counted(most, 'core')}"
        reason += f": {amount(each)} each, {amount(free)} free"
    return Choice(devices=("cpu",) * count, reason=reason)


def network_flops(num_weights: int, latent_shape: tuple[int, int, int], calls: int) -> float:
    """Estimate the floating-point operations of `calls` network evaluations of one latent [C, H, W]."""
    return _FLOPS_PER_WEIGHT * num_weights * latent_shape[1] * latent_shape[2] * calls


def is_worth_sharing(flops: float, device: str) -> bool:
    """Return true if the work takes much longer than starting processes does."""
    return flops > _WORTH_FLOPS["cuda" if num_gpus(device) else "cpu"]
