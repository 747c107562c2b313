"""The processes that train together. Each computes a share of a step; after every exchange all hold the same numbers.

The only exchange is a sum over processes, in place, whose result has the same bits everywhere: numbers are gathered by
summing arrays that are zero but for a process's own share, which is exact. So nothing but numbers is sent (no pickle),
and one process is the special case in which nothing happens.
"""

import hashlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from ppod_data.errors import ConfigError, NothingToLearnError, WorkersError

Item = TypeVar("Item")

TIMEOUT = timedelta(hours=2)
"""How long a process waits for another at most: longer than a shard takes. One that ends is noticed at once."""
_BUCKET_ELEMENTS = 2**25
_AGAIN = "run the same command again to go on from the last checkpoint"


@dataclass(frozen=True, kw_only=True)
class Workers:
    """One of `world_size` processes that call the same methods in the same order."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    """Where this process computes."""
    sharded: bool = False
    """True if each process holds a part of the weights (`ppod_train.policy.fsdp`): all call the network together."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def strided(self, items: Sequence[Item]) -> list[tuple[Item, bool]]:
        """The items that this process calls the network for, every `world_size`-th, and whether the call counts.

        Calls that do not count make the turns of all processes as many where the weights are sharded.
        """
        own = [(item, True) for item in items[self.rank :: self.world_size]]
        if self.sharded and items:
            own += [(items[0], False)] * (-(-len(items) // self.world_size) - len(own))
        return own

    def shard(self, count: int) -> range:
        """The places of `count` items that this process works on where they are to be in a row."""
        return range(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over all processes, in place.

        Raises:
            WorkersError: another process ended, or did not answer in time.
        """
        if self.world_size > 1:
            try:
                dist.all_reduce(tensor)
            except RuntimeError as error:
                raise WorkersError(
                    f"another process of this run ended or does not answer: {_AGAIN}"
                ) from error
        return tensor

    def gather(self, own: NDArray[Any], first: int, total: int) -> NDArray[Any]:
        """Rows [total, …] of all processes; `own` are the rows of this one, from row `first` on."""
        if self.world_size == 1:
            return own
        rows = np.zeros((total, *own.shape[1:]), own.dtype)
        rows[first : first + len(own)] = own
        as_numbers = rows.view(np.uint8) if rows.dtype == np.bool_ else rows
        self.sum(torch.from_numpy(as_numbers))
        return rows

    def wait(self) -> None:
        """Until every process is here."""
        self.sum(torch.zeros(1))

    def on_main(self, work: Callable[[], object]) -> None:
        """The first process does `work`, the others wait for its end.

        Raises:
            NothingToLearnError: in all processes, where `work` raised it.
        """
        failed = torch.zeros(1)
        try:
            if self.is_main:
                work()
        except NothingToLearnError:
            self.sum(failed.fill_(1))
            raise
        if float(self.sum(failed)):
            raise NothingToLearnError("there is nothing to learn, as the first process says")

    def sum_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Add up `.grad` over all processes; a gradient that is missing is zero. Sharded ones are summed already."""
        bucket: list[torch.Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if bucket and sum(map(torch.numel, bucket)) + parameter.numel() > _BUCKET_ELEMENTS:
                self._sum_bucket(bucket)
                bucket = []
            bucket.append(parameter.grad)
        self._sum_bucket(bucket)

    def _sum_bucket(self, gradients: Sequence[torch.Tensor]) -> None:
        if self.world_size == 1 or self.sharded or not gradients:
            return
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        first = 0
        for gradient in gradients:
            gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
            first += gradient.numel()

    def check_same(self, tensors: Iterable[torch.Tensor], what: str) -> None:
        """Raise WorkersError where the processes do not hold the same bits. Of sharded tensors there are no two."""
        if self.world_size == 1 or self.sharded:
            return
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        own = np.frombuffer(digest.digest(), np.int64)[None]
        found = self.gather(own, self.rank, self.world_size)
        if others := [rank for rank in range(self.world_size) if (found[rank] != found[0]).any()]:
            raise WorkersError(
                f"the processes 0 and {others[0]} hold different {what}: train on equal devices with equal software; "
                f"{_AGAIN}"
            )


SINGLE_PROCESS = Workers()


@contextmanager
def start_workers(rank: int, world_size: int, device: str, *, sharded: bool = False) -> Iterator[Workers]:
    """Meet the other processes that torchrun or `accelerate launch` started; nothing to do for one process.

    Raises:
        ConfigError: variables of a launcher are missing.
        WorkersError: in the block, when this process is ended from outside.
    """
    if world_size == 1:
        yield Workers(device=device)
        return
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise ConfigError(f"WORLD_SIZE is {world_size}, and {missing[0]} is not set: start by torchrun")
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    try:
        dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=TIMEOUT)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise WorkersError(f"the {world_size} processes do not find each other: {reason}") from error
    before = signal.signal(signal.SIGTERM, _on_terminate)
    workers = Workers(rank=rank, world_size=world_size, device=device, sharded=sharded)
    try:
        yield workers
        workers.wait()
    except BaseException:
        # This process ends, and says why first: the launcher, which has noticed as well, kills it if that takes long.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    signal.signal(signal.SIGTERM, before)
    dist.destroy_process_group()  # not after an error: it would wait for the others


def _on_terminate(number: int, frame: object) -> None:
    raise WorkersError(f"ended from outside, as when another process of this run ended: {_AGAIN}")
