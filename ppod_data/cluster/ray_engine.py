"""Shards on a Ray cluster: a worker a GPU, or a few CPUs, which loads the model once and takes one shard after another.

Since a shard is a pure function, a worker is told nothing but its number, and a shard that is made twice is made once.
So a worker that dies, with its machine or alone, costs the shard that it had in hand: another one takes it. The driver
hands out numbers, one a worker at a time; when it is killed, what is committed stays, and the next run makes the rest.
"""

import contextlib
import logging
import os
import re
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from ppod_data.errors import ConfigError, PpodError
from ppod_data.support.progress import SILENT, Progress

_LOOK_AGAIN_SECONDS = 5.0
"""How often the cluster is asked whether it has grown."""
_CONNECT_SECONDS = 10.0
_LOSSES = 5
"""Workers that a shard may cost while no shard at all is finished: then it is the shard, not the machines."""


class Job(Protocol):
    """What the workers do: sent to each of them once."""

    def prepare(self, device: str) -> Callable[[int], Any]:
        """Load what every shard needs, on "cpu" or "cuda"; gives the function of a shard's number."""


@dataclass(frozen=True, kw_only=True)
class RayCluster:
    """Where the shards are made."""

    address: str = "auto"
    """Of a running cluster: "auto" for the one that this machine is a part of, HOST:PORT, or ray://HOST:PORT."""
    device: str = "auto"
    """"cpu", "cuda" (one GPU a worker), or "auto": GPUs where the cluster has any."""


@contextlib.contextmanager
def connected(cluster: RayCluster) -> Iterator[str]:
    """Be a driver of a running cluster; gives the device of its workers, "cpu" or "cuda". No cluster is ever started.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, or it has no such device.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'ppod[ray]'") from error
    if cluster.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {cluster.device}: Ray gives each worker its GPU: give auto, cpu or cuda")
    _check_reachable(cluster.address)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"no Ray cluster at {cluster.address} ({reason}): {_START}") from error
    try:
        num_gpus = ray.cluster_resources().get("GPU", 0)
        if cluster.device == "cuda" and not num_gpus:
            raise ConfigError("the Ray cluster has no GPU: give --device cpu, or add a node with one")
        yield "cuda" if num_gpus and cluster.device != "cpu" else "cpu"
    finally:
        ray.shutdown()


_START = "start one with `ray start --head`, or give --ray-address HOST:PORT"


def _check_reachable(address: str) -> None:
    """Ray itself tries an address without a server for minutes. Raises ConfigError."""
    if address == "auto":
        return
    parts = re.fullmatch(r"(?:ray://)?(?P<host>[^\s/:]+|\[[0-9A-Fa-f:]+\]):(?P<port>\d{1,5})", address)
    if parts is None:
        raise ConfigError(f"--ray-address {address}: give auto, HOST:PORT or ray://HOST:PORT")
    try:
        host = parts["host"].strip("[]")
        socket.create_connection((host, int(parts["port"])), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at {address} ({error}): {_START}") from error


def map_shards(
    job: Job,
    shards: Iterable[int],
    device: str,
    *,
    progress: Progress = SILENT,
) -> Generator[tuple[int, Any], None, None]:
    """(shard, what the job gives for it) in the order in which they are done; inside `connected`.

    Args:
        shards: drawn as workers become free.
        progress: shows how many workers there are, and says which died.

    Raises:
        ConfigError: the workers lack ppod.
        PpodError: a shard's workers die again and again; also whatever the job raises, as the worker raised it.
    """
    pool = _Pool(job, device, progress)
    waiting: deque[int] = deque()
    coming = iter(shards)
    try:
        while True:
            waiting.extend(islice(coming, max(0, pool.num_open + 1 - len(waiting))))
            pool.give(waiting)
            if not waiting and not pool.num_busy:
                return
            grew = pool.grow(len(waiting))
            progress.status(pool.describe())
            if grew:
                continue  # as many shards as there may be workers are to be drawn
            yield from pool.wait(waiting)
    finally:
        pool.close()


@dataclass
class _Pool:
    """The workers of a cluster: those that load, those that wait for a shard, and those that have one."""

    job: Job
    device: str
    progress: Progress
    num_cpus: int = field(default_factory=lambda: int(os.environ.get("OMP_NUM_THREADS") or 1))
    loading: dict[Any, Any] = field(default_factory=dict)
    """Ray's promise -> worker."""
    idle: list[Any] = field(default_factory=list)
    busy: dict[Any, tuple[Any, int]] = field(default_factory=dict)
    """Ray's promise -> (worker, shard)."""
    losses: Counter[int] = field(default_factory=Counter)
    """Shard (-1: loading) -> workers that died with it since any shard was finished."""
    slots: int = 0
    looked: float = float("-inf")

    @property
    def num_open(self) -> int:
        """Workers without a shard."""
        return len(self.loading) + len(self.idle)

    @property
    def num_busy(self) -> int:
        return len(self.busy)

    def grow(self, num_waiting: int) -> bool:
        """Start one more worker, where a shard waits for it and the cluster has, or may have, room. True: it did."""
        import ray

        if time.monotonic() > self.looked + _LOOK_AGAIN_SECONDS:
            resources, self.looked = ray.cluster_resources(), time.monotonic()
            share = (
                resources.get("GPU", 0) if self.device == "cuda" else resources.get("CPU", 0) / self.num_cpus
            )
            self.slots = max(1, int(share))
        if num_waiting <= self.num_open or self.num_open + self.num_busy >= self.slots:
            return False
        options = {"num_cpus": self.num_cpus, "num_gpus": int(self.device == "cuda"), "max_restarts": 0}
        variables = {"OMP_NUM_THREADS": str(self.num_cpus)}
        actor = ray.remote(**options)(_Worker).options(runtime_env={"env_vars": variables})
        worker = actor.remote(self.job, self.device, os.getcwd())
        self.loading[worker.prepare.remote()] = worker
        return True

    def give(self, waiting: deque[int]) -> None:
        """Hand the next shards to idle workers; those that get none are ended."""
        while waiting and self.idle:
            worker, shard = self.idle.pop(), waiting.popleft()
            self.busy[worker.run.remote(shard)] = worker, shard
        if not waiting:
            self._end(self.idle)  # no shard is left for them, and others may need their place
            self.idle.clear()

    def wait(self, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
        """What is done after a while; a dead worker's shard waits again, first of all."""
        import ray

        done, _ = ray.wait([*self.loading, *self.busy], timeout=_LOOK_AGAIN_SECONDS)
        for promise in done:
            loaded = promise in self.loading
            worker, shard = (self.loading.pop(promise), -1) if loaded else self.busy.pop(promise)
            try:
                result = ray.get(promise)
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except ray.exceptions.RayError as error:
                ray.kill(worker)
                self._lose(shard, error)
                if not loaded:
                    waiting.appendleft(shard)
                continue
            self.idle.append(worker)
            if not loaded:
                self.losses.clear()
                yield shard, result

    def _lose(self, shard: int, error: Exception) -> None:
        reason = " ".join(str(error).split())
        if "failed to import" in reason:
            raise ConfigError("a Ray worker cannot import ppod: install the same version on every node")
        what = "loading the model" if shard < 0 else f"shard {shard}"
        self.progress.say(f"a Ray worker died with {what}: another one takes its place")
        self.losses[shard] += 1
        if self.losses[shard] >= _LOSSES + (self.slots if shard < 0 else 0):
            raise PpodError(
                f"{self.losses[shard]} Ray workers died one after another with {what} ({reason[:300]}): look at "
                "Ray's logs, and run the same command again: finished shards are kept"
            )

    def describe(self) -> str:
        text = f"{self.num_busy} Ray workers of at most {self.slots} at work"
        return text + (f", {len(self.loading)} waiting for the cluster or loading" if self.loading else "")

    def close(self) -> None:
        """End every worker, whatever it does."""
        self._end([*self.loading.values(), *self.idle, *(worker for worker, _ in self.busy.values())])

    def _end(self, workers: Sequence[Any]) -> None:
        import ray

        for worker in workers:
            with contextlib.suppress(Exception):
                ray.kill(worker)


class _Worker:
    """The actor: a process of its own somewhere in the cluster."""

    def __init__(self, job: Job, device: str, folder: str) -> None:
        self._job, self._device, self._folder = job, device, folder
        self._work: Callable[[int], Any] | None = None

    def prepare(self) -> None:
        with contextlib.suppress(OSError):  # relative paths mean what they mean to the driver
            os.chdir(self._folder)
        self._work = self._job.prepare(self._device)

    def run(self, shard: int) -> Any:
        assert self._work is not None, "prepare comes first"
        return self._work(shard)


def _cause(error: Any) -> Exception:
    """What the worker raised."""
    if isinstance(error.cause, Exception):
        return error.cause
    return PpodError(" ".join(str(error).split())[-300:])
