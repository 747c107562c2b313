"""The processes of a call: those that torchrun or `accelerate launch` started, or this one alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ppod_data.errors import ConfigError
from ppod_data.support.processes import rank_and_world_size, resolve_device
from ppod_train.distributed import Workers, start_workers
from ppod_train.policy.fsdp import is_set, is_sharding_configured

_UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""Variables of `accelerate launch` for ways to shard weights that ppod does not support."""


@contextmanager
def launched(device: str) -> Iterator[Workers]:
    """Join the processes that the launcher started; each computes on its own device.

    Args:
        device: torch device, or `auto` for a GPU if there is one.

    Raises:
        ConfigError: accelerate's configuration has a setting that ppod would ignore, or the device is unknown.
    """
    for variable, name in _UNSUPPORTED.items():
        if is_set(variable):
            raise ConfigError(
                f"{variable} is set, and ppod shards by FSDP 2 alone: leave {name} out of accelerate's configuration, "
                "or start by torchrun"
            )
    if (precision := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) != "no":
        raise ConfigError(
            f"accelerate's configuration asks for mixed_precision {precision}: set it to no, and give --compute-dtype"
        )
    rank, world_size = rank_and_world_size()
    sharded = is_sharding_configured() and world_size > 1
    with start_workers(rank, world_size, resolve_device(device), sharded=sharded) as workers:
        yield workers
