"""Shards on a Ray cluster. Each worker has a GPU or a few CPUs, loads the model once, and processes shard after shard.

A shard is a pure function, so a worker receives only its number, and a shard that is made twice is committed
once. A worker that dies, alone or with its machine, loses only its current shard, which another worker takes.
The driver assigns one shard a worker at a time. If the driver is killed, committed shards stay, and the next
run makes the others.
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
from typing import Any

from ppod_data.cluster.job import Job
from ppod_data.errors import ConfigError, PpodError
from ppod_data.support.progress import SILENT, Progress

_LOOK_AGAIN_SECONDS = 5.0
"""Seconds between queries of the cluster's size."""
_CONNECT_SECONDS = 10.0
_LOSSES = 5
"""Workers that may die with one shard while no shard is finished. More deaths mean that the shard is at fault."""


@dataclass(frozen=True, kw_only=True)
class RayCluster:
    """The cluster and device that make the shards."""

    address: str = "auto"
    """The address of a running cluster: "auto" for this machine's own, HOST:PORT, or ray://HOST:PORT."""
    device: str = "auto"
    """"cpu", "cuda" (one GPU a worker), or "auto": GPUs if the cluster has any."""


@contextlib.contextmanager
def connected(cluster: RayCluster) -> Iterator[str]:
    """Connect to a running cluster as a driver, and yield its workers' device, "cpu" or "cuda". No cluster is started.

    Raises:
        ConfigError: Ray is not installed, the cluster does not exist, or it has no such device.
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
    """Raise ConfigError if no server listens at the address. Ray itself would try for minutes."""
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
    *,
    device: str,
    progress: Progress = SILENT,
) -> Generator[tuple[int, Any], None, None]:
    """Yield (shard, the job's result) in order of completion. Must be called inside `connected`.

    Args:
        job: the work.
        shards: consumed as workers become free.
        device: the workers' device, from `connected`.
        progress: counts the units of finished shards, shows the number of workers, and reports those that died.

    Raises:
        ConfigError: the workers lack ppod.
        PpodError: a shard's workers die repeatedly. The job's own errors are raised too.
    """
    pool = _Pool(job, device, progress)
    waiting: deque[int] = deque()
    remaining = iter(shards)
    try:
        while True:
            waiting.extend(islice(remaining, max(0, pool.num_open + 1 - len(waiting))))
            pool.give(waiting)
            if not waiting and not pool.num_busy:
                return
            grew = pool.grow(len(waiting))
            progress.status(pool.describe())
            if grew:
                continue  # draw as many shards as there may be workers
            for shard, result in pool.wait(waiting):
                progress.advance(job.units(shard, result))
                yield shard, result
    finally:
        pool.close()


@dataclass
class _Pool:
    """The workers of a cluster: loading, idle, and busy ones."""

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
        """Return the number of workers without a shard."""
        return len(self.loading) + len(self.idle)

    @property
    def num_busy(self) -> int:
        """Return the number of workers with a shard."""
        return len(self.busy)

    def grow(self, num_waiting: int) -> bool:
        """Start one more worker if a shard waits for it and the cluster may have room. Return true if started."""
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
        """Assign the next shards to idle workers, and end workers that get none."""
        while waiting and self.idle:
            worker, shard = self.idle.pop(), waiting.popleft()
            self.busy[worker.run.remote(shard)] = worker, shard
        if not waiting:
            self._end(self.idle)  # no shard is left, and other jobs may need the resources
            self.idle.clear()

    def wait(self, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
        """Wait a while and yield the results. A dead worker's shard returns to the front of the queue."""
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
        """Return a status line with the numbers of workers."""
        text = f"{self.num_busy} Ray workers of at most {self.slots} at work"
        return text + (f", {len(self.loading)} waiting for the cluster or loading" if self.loading else "")

    def close(self) -> None:
        """End all workers, busy ones too."""
        self._end([*self.loading.values(), *self.idle, *(worker for worker, _ in self.busy.values())])

    def _end(self, workers: Sequence[Any]) -> None:
        import ray

        for worker in workers:
            with contextlib.suppress(Exception):
                ray.kill(worker)


class _Worker:
    """The actor: a separate process in the cluster."""

    def __init__(self, job: Job, device: str, folder: str) -> None:
        self._job, self._device, self._folder = job, device, folder
        self._work: Callable[[int], Any] | None = None

    def prepare(self) -> None:
        """Change to the driver's folder and load what every shard needs."""
        with contextlib.suppress(OSError):  # relative paths are relative to the driver's folder
            os.chdir(self._folder)
        self._work = self._job.prepare(self._device, SILENT)

    def run(self, shard: int) -> Any:
        """Process one shard."""
        assert self._work is not None, "prepare comes first"
        return self._work(shard)


def _cause(error: Any) -> Exception:
    """Return the exception that the worker raised."""
    if isinstance(error.cause, Exception):
        return error.cause
    return PpodError(" ".join(str(error).split())[-300:])
