"""How many CPU threads a recorded number was computed with: always one.

The last bits of a convolution or a matrix product depend on how many threads share it. A shard is a pure function of
its spec on any number of cores, so sampling and scoring use one thread a process on a CPU; more cores are used by more
workers.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Compute on one CPU thread inside the block; nothing changes for another device."""
    import torch  # here, since tables are read without it

    before = torch.get_num_threads()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_kind(device: str) -> str:
    """`cuda` of `cuda:3`: what is recorded beside numbers, which do not depend on which of a machine's GPUs it was."""
    import torch

    return torch.device(device).type
