"""The processes of a training command."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ppod_cli.app.launch import rank_and_world_size, resolve_device
from ppod_data.errors import ConfigError

if TYPE_CHECKING:
    from ppod_train.distributed import Workers

_SHARDED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""What `accelerate launch` sets where its configuration spreads the weights over processes."""


def leads() -> bool:
    """Whether this process speaks for all that torchrun started."""
    return rank_and_world_size()[0] == 0


@contextmanager
def started_workers(device: str) -> Iterator["Workers"]:
    """This process among those that torchrun started, or alone; it computes on what `--device` names.

    Raises:
        ConfigError: a configuration of `accelerate` that ppod would ignore.
    """
    from ppod_train.distributed import start_workers
    from ppod_train.policy.fsdp import is_set, is_sharding_configured

    for variable, name in _SHARDED.items():
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
