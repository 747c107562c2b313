"""The ranks of a training command on this machine: processes that run the same command line, as torchrun's would.

The command that the user started computes nothing then. It waits for its ranks, of which the first one prints, and
reports the cause if one of them fails.
"""

import contextlib
import importlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, NamedTuple

from ppod_cli.app.processes import local_processes
from ppod_data.cluster.local_engine import become_worker, end_processes, how_ended, start_server
from ppod_data.errors import PpodError, WorkersError

if TYPE_CHECKING:
    import typer

    from ppod_train.library.ranks import RankJob

_COMMANDS = "ppod_cli.train.main"
"""Module of the commands, which import this one."""
_GRACE_SECONDS = 2.0
"""Seconds that other ranks have to report the cause of a failure."""


class _End(NamedTuple):
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

    def end(self) -> _End:
        """Return how the rank ended, which its pipe or the end of its pipe says."""
        try:
            end: _End = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            end = _End(
                f"process {self.number} {how_ended(self.process)}: run the same command again to continue", 1
            )
        return end


def num_ranks(
    ctx: "typer.Context", num_processes: str, device: str, describe: "Callable[[], RankJob]"
) -> int:
    """Return how many processes run the command: as many as `--num-processes` asks for, or as save time.

    Args:
        ctx: the command's context, whose object is the command line.
        num_processes: `--num-processes`.
        device: `--device`.
        describe: returns what the processes would share.

    Returns:
        1 if this process is to do the work itself.
    """
    from ppod_train.library.ranks import choose_ranks

    if ctx.obj.is_rank:
        return 1
    processes = local_processes(num_processes, device)
    choice = choose_ranks(processes, describe) if processes.count != 1 else None
    if choice is None:
        return 1
    if choice.reason and len(choice.devices) > 1:
        print(f"train: {choice.reason}", file=sys.stderr, flush=True)
    return len(choice.devices)


def run_ranks(arguments: Sequence[str], count: int) -> None:
    """Run `ppod-train` with `arguments` in `count` processes, and wait for them.

    Raises:
        PpodError: a rank failed; its exit code is the rank's.
    """
    ranks: list[_Rank] = []
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for number in range(count):
            ranks.append(_start(number, count, port, arguments))
        failures = _wait(ranks)
    finally:
        end_processes([rank.process for rank in ranks])
    if failures:
        cause = min(failures, key=lambda end: end.is_consequence)
        error = PpodError(cause.message)
        error.exit_code = cause.code
        raise error


def _start(number: int, count: int, port: int, arguments: Sequence[str]) -> _Rank:
    start_server()
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(number, count, port, list(arguments), there))
    process.start()
    there.close()  # so that the death of the process ends the pipe
    return _Rank(number, process, here)


def _wait(ranks: Sequence[_Rank]) -> list[_End]:
    """Return the failures, the first one first, after all ranks ended or shortly after the first failure."""
    running = {rank.pipe: rank for rank in ranks}
    failures: list[_End] = []
    while running:
        ready = wait(list(running), timeout=_GRACE_SECONDS if failures else None)
        if not ready:
            break
        for pipe in ready:
            assert isinstance(pipe, Connection), "only pipes are waited for"
            end = running.pop(pipe).end()
            failures += [end] if end.code else []
    return failures


def _run(number: int, count: int, port: int, arguments: Sequence[str], pipe: Connection) -> None:
    """Run the command line as rank `number`, and send how it ended."""
    run = importlib.import_module(_COMMANDS).run
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
    ended = run(arguments, is_rank=True)
    with contextlib.suppress(BrokenPipeError):
        pipe.send(_End(ended.message, ended.code, isinstance(ended.error, WorkersError)))
