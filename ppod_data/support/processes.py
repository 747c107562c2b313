"""The process among those that torchrun started, and its device."""

import os
import sys

from ppod_data.errors import ConfigError


def rank_and_world_size() -> tuple[int, int]:
    """Return RANK and WORLD_SIZE as torchrun and `accelerate launch` set them; (0, 1) without them.

    `accelerate launch` starts a single process on CPUs, whatever --num_processes is; a note on stderr says so.

    Raises:
        ConfigError: the values are no rank of a world.
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


def resolve_device(text: str) -> str:
    """Return the torch device of a name: `auto` is a GPU if there is one.

    Under torchrun, `auto` and `cuda` are the GPU of this process's LOCAL_RANK.

    Raises:
        ConfigError: torch does not know or does not see the device.
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
