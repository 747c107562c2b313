"""Several processes on one machine, as torchrun would start them, forked: nothing is imported or loaded again."""

import gc
import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from ppod_train.distributed import Workers, start_workers

Value = TypeVar("Value")

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "BasicTransformerBlock,ResnetBlock2D",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
"""What `accelerate launch` sets for a configuration with FSDP 2 and the parts of a UNet."""


def together(world_size: int, work: Callable[[Workers], Value], *, sharded: bool = False) -> list[Value]:
    """What `work` gives in each of `world_size` processes; an error in one of them is one here."""
    if world_size == 1:
        return [work(Workers())]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
    processes = [
        context.Process(target=_run, args=(rank, world_size, port, work, pipe[1], sharded))
        for rank, pipe in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()  # so that a process that ends without a word is an EOFError, and no wait for ever
    results = [receiver.recv() for receiver, _ in pipes]
    for process in processes:
        process.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _run(
    rank: int,
    world_size: int,
    port: int,
    work: Callable[[Workers], Any],
    results: Connection,
    sharded: bool,
) -> None:
    gc.freeze()  # a collection would otherwise visit, and so copy, every object of the parent
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= FSDP if sharded else {}
    torch.set_num_threads(1)
    try:
        with start_workers(rank, world_size, "cpu", sharded=sharded) as workers:
            results.send(work(workers))
    except Exception as error:
        results.send(error)
