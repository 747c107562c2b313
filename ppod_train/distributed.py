"""Processes that train together. Each computes a share of a step; every exchange leaves equal numbers in all of them.

The only exchange is an in-place sum over processes, whose result has the same bits in every process. Rows are gathered
by summing arrays that are zero outside a process's own share, which is exact. Only numbers are sent (no pickle). In a
single process every method is a no-op or a plain copy.

Example:
    with start_workers(rank, world_size, device) as workers:
        for chunk, counts in workers.strided(chunks):
            ...
        workers.sum(total)
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
"""Maximum wait for another process: longer than a shard takes. A process that ends is noticed immediately."""
_BUCKET_ELEMENTS = 2**25
_AGAIN = "run the same command again to resume from the last checkpoint"


@dataclass(frozen=True, kw_only=True)
class Workers:
    """This process, one of `world_size` processes that call the same methods in the same order."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    """Device of this process."""
    sharded: bool = False
    """True if each process holds a part of the weights (`ppod_train.policy.fsdp`) and all call the network together."""

    @property
    def is_main(self) -> bool:
        """Return True for rank 0, the process that writes files and reports progress."""
        return self.rank == 0

    def strided(self, items: Sequence[Item]) -> list[tuple[Item, bool]]:
        """Return this rank's items, every `world_size`-th, each with a flag that says if the call counts.

        With sharded weights, calls that do not count give every process the same number of network calls.
        """
        own = [(item, True) for item in items[self.rank :: self.world_size]]
        if self.sharded and items:
            own += [(items[0], False)] * (-(-len(items) // self.world_size) - len(own))
        return own

    def shard(self, count: int) -> range:
        """Return this rank's contiguous slice of `range(count)`."""
        return range(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place.

        Raises:
            WorkersError: another process ended or did not respond within the timeout.
        """
        if self.world_size > 1:
            try:
                dist.all_reduce(tensor)
            except RuntimeError as error:
                raise WorkersError(
                    f"another process of this run ended or does not respond: {_AGAIN}"
                ) from error
        return tensor

    def gather(self, own: NDArray[Any], first: int, total: int) -> NDArray[Any]:
        """Return the rows [total, …] of all processes; `own` holds this process's rows, starting at row `first`."""
        if self.world_size == 1:
            return own
        rows = np.zeros((total, *own.shape[1:]), own.dtype)
        rows[first : first + len(own)] = own
        as_numbers = rows.view(np.uint8) if rows.dtype == np.bool_ else rows
        self.sum(torch.from_numpy(as_numbers))
        return rows

    def wait(self) -> None:
        """Wait until every process has called this method."""
        self.sum(torch.zeros(1))

    def on_main(self, work: Callable[[], object]) -> None:
        """Run `work` in the main process; the other processes wait until it ends.

        Raises:
            NothingToLearnError: in every process, if `work` raised it.
        """
        failed = torch.zeros(1)
        try:
            if self.is_main:
                work()
        except NothingToLearnError:
            self.sum(failed.fill_(1))
            raise
        if float(self.sum(failed)):
            raise NothingToLearnError("there is nothing to learn: see the error of the main process")

    def sum_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Sum `.grad` over all processes; a missing gradient counts as zero.

        Gradients of sharded weights are summed in the backward pass already.
        """
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
        """Raise WorkersError if the processes hold different bits; sharded tensors are not compared."""
        if self.world_size == 1 or self.sharded:
            return
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        own = np.frombuffer(digest.digest(), np.int64)[None]
        digests = self.gather(own, self.rank, self.world_size)
        if different := [rank for rank in range(self.world_size) if (digests[rank] != digests[0]).any()]:
            raise WorkersError(
                f"the processes 0 and {different[0]} hold different {what}: use equal devices and software versions; "
                f"{_AGAIN}"
            )


SINGLE_PROCESS = Workers()
"""Workers of a run without other processes."""


@contextmanager
def start_workers(rank: int, world_size: int, device: str, *, sharded: bool = False) -> Iterator[Workers]:
    """Join the process group that torchrun or `accelerate launch` started; a single process joins none.

    Raises:
        ConfigError: variables of a launcher are missing.
        WorkersError: inside the block, if this process is terminated.
    """
    if world_size == 1:
        yield Workers(device=device)
        return
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise ConfigError(
            f"WORLD_SIZE is {world_size}, but {missing[0]} is not set: start the command with torchrun"
        )
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    try:
        dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=TIMEOUT)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise WorkersError(f"the {world_size} processes cannot connect to each other: {reason}") from error
    previous_handler = signal.signal(signal.SIGTERM, _on_terminate)
    workers = Workers(rank=rank, world_size=world_size, device=device, sharded=sharded)
    try:
        yield workers
        workers.wait()
    except BaseException:
        # Ignore SIGTERM, so that this process reports its error first; the launcher kills it if that takes long.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    signal.signal(signal.SIGTERM, previous_handler)
    dist.destroy_process_group()  # not after an error, because it would wait for the other processes


def _on_terminate(number: int, frame: object) -> None:
    raise WorkersError(f"terminated, for example because another process of this run ended: {_AGAIN}")
