"""Cores, GPUs and memory that this process may use."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_GPU_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")
"""Files in /dev of a machine with a GPU: of NVIDIA's driver, of ROCm, of Windows' Linux."""
_CGROUPS = Path("/sys/fs/cgroup")


def num_cores() -> int:
    """Return the number of physical cores in this process's affinity mask, within the CPU quota of its cgroup."""
    cores = {_siblings(cpu) for cpu in os.sched_getaffinity(0)}
    quotas = [quota.split() for quota in _cgroup_files("cpu.max")]
    limits = [int(quota) // int(period) for quota, period in quotas if quota != "max"]
    return max(1, min([len(cores), *limits]))


def available_memory() -> int:
    """Return the bytes of memory that are free or can be freed, within the limit of this process's cgroup."""
    free = [
        1024 * int(line.split()[1]) for line in _lines(Path("/proc/meminfo")) if line.startswith("MemAvail")
    ]
    limits = zip(_cgroup_files("memory.max"), _cgroup_files("memory.current"), strict=False)
    free += [int(limit) - int(used) for limit, used in limits if limit != "max"]
    return max(0, min(free, default=0))


def num_gpus(device: str) -> int:
    """Return the number of GPUs that `--device` leaves to choose from: 0 on CPUs, 1 for a GPU with a number."""
    if device not in ("auto", "cuda"):
        return int(device.startswith("cuda"))
    if not any(any(Path("/dev").glob(pattern)) for pattern in _GPU_DEVICES):
        return 0  # without the import of torch, which takes seconds
    import torch

    return torch.cuda.device_count()


def _siblings(cpu: int) -> str:
    """Return the hardware threads of a CPU's core; the CPU alone if the kernel does not list them."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return next(iter(_lines(path)), str(cpu))


def _cgroup_files(name: str) -> Iterator[str]:
    """Yield the content of a file of this process's cgroup (version 2) and of the cgroups above it."""
    own = [line[3:] for line in _lines(Path("/proc/self/cgroup")) if line.startswith("0::")]
    folder = _CGROUPS / own[0].lstrip("/") if own else _CGROUPS
    for place in (folder, *folder.parents):
        if place.is_relative_to(_CGROUPS):
            yield from _lines(place / name)


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    return []
