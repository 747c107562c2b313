"""Ranks on this machine: processes that run the same function, as torchrun's would.

The process that starts them computes nothing. It waits for its ranks, and raises the cause if one of them fails.
"""

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from ppod_data.cluster.local_engine import become_worker, end_processes, how_ended, start_server
from ppod_data.errors import PpodError

_GRACE_SECONDS = 2.0
"""Seconds that other ranks have to report the cause of a failure."""


class RankEnd(NamedTuple):
    """How a rank ended."""

    message: str
    """The error in one line, empty without one."""
    code: int
    is_consequence: bool = False
    """Another rank's failure caused this one."""


@dataclass(frozen=True, eq=False)
class _Rank:
    number: int
    process: BaseProcess
    pipe: Connection

    def end(self) -> RankEnd:
        """Return how the rank ended, which its pipe or the end of its pipe says."""
        try:
            end: RankEnd = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            end = RankEnd(
                f"process {self.number} {how_ended(self.process)}: run the same command again to continue", 1
            )
        return end


def run_ranks(command: Callable[[], RankEnd], count: int) -> None:
    """Run a function, which can be pickled, in `count` processes, and wait for them.

    Raises:
        PpodError: a rank failed; its exit code is the rank's.
    """
    ranks: list[_Rank] = []
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for number in range(count):
            ranks.append(_start(number, count, port, command))
        failures = _wait(ranks)
    finally:
        end_processes([rank.process for rank in ranks])
    if failures:
        cause = min(failures, key=lambda end: end.is_consequence)
        error = PpodError(cause.message)
        error.exit_code = cause.code
        raise error


def _start(number: int, count: int, port: int, command: Callable[[], RankEnd]) -> _Rank:
    start_server()
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(number, count, port, command, there))
    process.start()
    there.close()  # so that the death of the process ends the pipe
    return _Rank(number, process, here)


def _wait(ranks: Sequence[_Rank]) -> list[RankEnd]:
    """Return the failures, the first one first, after all ranks ended or shortly after the first failure."""
    running = {rank.pipe: rank for rank in ranks}
    failures: list[RankEnd] = []
    while running:
        ready = wait(list(running), timeout=_GRACE_SECONDS if failures else None)
        if not ready:
            break
        for pipe in ready:
            assert isinstance(pipe, Connection), "only pipes are waited for"
            end = running.pop(pipe).end()
            failures += [end] if end.code else []
    return failures


def _run(number: int, count: int, port: int, command: Callable[[], RankEnd], pipe: Connection) -> None:
    """Run the function as rank `number`, and send how it ended."""
    become_worker()
    os.environ |= {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's name need not resolve
    end = command()
    with contextlib.suppress(BrokenPipeError):
        pipe.send(end)
