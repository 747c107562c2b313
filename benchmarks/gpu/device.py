"""Time and memory of a device."""

import time
from collections.abc import Callable

import torch


def measured(ways: dict[str, Callable[[], object]], device: str, *, rounds: int) -> dict[str, list[float]]:
    """Wall seconds of every way and round, in turn, after one run of each that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            _synchronize(device)
            start = time.perf_counter()
            run()
            _synchronize(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def empty_cache(device: str) -> None:
    """Release cached GPU memory."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def reset_peak(device: str) -> None:
    """Reset the peak of GPU memory."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str) -> float | None:
    """Return the peak of GPU memory in GiB; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.device(device).type == "cuda" else None
