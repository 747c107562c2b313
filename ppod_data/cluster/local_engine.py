"""Shards on processes of this machine. Each loads the model once and processes shard after shard.

    for shard, result in map_shards(job, range(8), devices=("cpu", "cpu")):
        ...

Processes are forked from a server process that has imported torch and diffusers and has done nothing else. They start
quickly, share the memory of the imports, and inherit no thread, lock or GPU context of the caller. Every process
computes on one CPU thread. A process ends when its parent ends, however that happens.
"""

import contextlib
import copy
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from ppod_data.cluster.job import Job
from ppod_data.errors import PpodError, WorkersError
from ppod_data.support.progress import SILENT, Progress, Silent

_GRACE_SECONDS = 5.0
"""Seconds in which a terminated process may remove its temporary files."""
_PRELOADED = "ppod_data.cluster.preloaded"


def start_server() -> None:
    """Start importing torch and diffusers in the server process, if it does not run yet. Does not wait."""
    multiprocessing.set_forkserver_preload([_PRELOADED])
    with _one_thread_each():
        forkserver.ensure_running()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that are started in the block use one thread, unless the user set a number."""
    name = "OMP_NUM_THREADS"
    given = os.environ.get(name)
    os.environ[name] = given or "1"
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]


def map_shards(
    job: Job, shards: Iterable[int], *, devices: Sequence[str], progress: Progress = SILENT
) -> Generator[tuple[int, Any], None, None]:
    """Yield (shard, the job's result) in order of completion.

    Args:
        job: the work; it is pickled.
        shards: consumed as processes become free.
        devices: one for each process. Fewer processes are started if there are fewer shards.
        progress: counts the units of the workers.

    Raises:
        WorkersError: a process died. Its shard is not made.

    Errors of the job are raised too, and end all processes.
    """
    remaining = iter(shards)
    workers: dict[Connection, _Worker] = {}
    try:
        for number, device in enumerate(devices):
            if (shard := next(remaining, None)) is None:
                break
            worker = _Worker.start(number, job, device)
            workers[worker.pipe] = worker
            worker.give(shard)
        while workers:
            for pipe in connection.wait(list(workers)):
                assert isinstance(pipe, Connection), "only pipes are waited for"
                finished = workers[pipe].receive(progress)
                if finished is None:
                    continue
                yield finished
                if (shard := next(remaining, None)) is None:
                    workers.pop(pipe).dismiss()
                else:
                    workers[pipe].give(shard)
    finally:
        end_processes([worker.process for worker in workers.values()])


@dataclass
class _Worker:
    """A process and its end of the pipe."""

    number: int
    process: BaseProcess
    pipe: Connection
    shard: int = -1

    @classmethod
    def start(cls, number: int, job: Job, device: str) -> "_Worker":
        context = multiprocessing.get_context("forkserver")
        start_server()
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(job, device, there))
        process.start()
        there.close()  # so that the death of the process ends the pipe
        return cls(number, process, here)

    def give(self, shard: int) -> None:
        """Assign a shard. A process that died is noticed by `receive`."""
        self.shard = shard
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(shard)

    def receive(self, progress: Progress) -> tuple[int, Any] | None:
        """Handle one message. Return (shard, result) if a shard is finished. Raises the worker's error."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self.process.join()
            raise WorkersError(
                f"process {self.number} {how_ended(self.process)} with shard {self.shard}: run the same command again "
                "to continue, finished shards are kept"
            ) from error
        if kind == "error":
            raise value
        if kind == "units":
            progress.advance(value)
            return None
        return self.shard, value

    def dismiss(self) -> None:
        """End the process, which has no shard."""
        self.pipe.close()
        self.process.join()


def how_ended(process: BaseProcess) -> str:
    """Return the end of a process in words: `was killed by SIGKILL (out of memory?)`."""
    code = process.exitcode or 0
    if code >= 0:
        return "ended"
    reason = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{reason}"


def end_processes(processes: Sequence[BaseProcess]) -> None:
    """Terminate processes, and kill those that take longer than a few seconds."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE_SECONDS)
        process.kill()
        process.join()


class _Forwarded(Silent):
    """Progress of a worker, sent to the parent."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def advance(self, count: int) -> None:
        self._pipe.send(("units", count))


def _work(job: Job, device: str, pipe: Connection) -> None:
    """Run in a process: prepare the job, and process shards until the parent closes the pipe."""
    become_worker()
    try:
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent ended
            try:
                work = job.prepare(device, _Forwarded(pipe))
                while True:
                    pipe.send(("done", work(pipe.recv())))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                pipe.send(("error", portable(error)))
    finally:
        pipe.close()


def become_worker() -> None:
    """Leave Ctrl-C to the parent, end on SIGTERM with temporary files removed, and end when the parent ends."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _on_terminate)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _on_terminate(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def portable(error: Exception) -> Exception:
    """Return an error that can be pickled, with its traceback as a note for --debug."""
    error.add_note(traceback.format_exc())
    try:
        ForkingPickler.dumps(error)
        copy.copy(error)  # made anew as unpickling makes it
    except Exception:
        return PpodError(f"{type(error).__name__}: {error}")
    return error
