"""Shards on a Ray cluster: a worker a GPU, or a few CPUs, which loads the model once and takes one shard after another.

Since a shard is a pure function, nothing has to be told to a worker but its number, and a shard that is made twice is made
once. So a worker that dies, with its machine or alone, costs the shard that it had in hand: another one takes it.
The driver only hands out numbers, one a worker at a time. What it has not handed out is not lost when it dies.
"""

import contextlib
import logging
import os
import re
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ppod_data.errors import ConfigError, PpodError
from ppod_data.manifest import create_manifest, read_manifest
from ppod_data.shards import committed_shards, refuse_sealed, shard_committed

if TYPE_CHECKING:
    from ppod_data.generate import GenerateSummary
    from ppod_data.score import ShardRows
    from ppod_data.spec import GenerationSpec

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
    job: Job, shards: Iterable[int], device: str, on_status: Callable[[str], None] = lambda text: None
) -> Iterator[tuple[int, Any]]:
    """(shard, what the job gives for it) in the order in which they are done; inside `connected`.

    Args:
        shards: drawn as workers become free.
        on_status: called every few seconds with how many workers there are.

    Raises:
        ConfigError: the workers lack ppod.
        PpodError: a shard's workers die again and again; also whatever the job raises, as the worker raised it.
    """
    pool = _Pool(job, device)
    waiting: deque[int] = deque()
    coming = iter(shards)
    try:
        while True:
            num_open = pool.num_open
            waiting.extend(
                shard for shard, _ in zip(coming, range(num_open + 1 - len(waiting)), strict=False)
            )
            pool.give(waiting)
            if not waiting and not pool.num_busy:
                return
            grew = pool.grow(len(waiting))
            on_status(pool.describe())
            if grew:
                continue  # as many shards as there may be workers are to be drawn
            for shard, result in pool.wait(waiting):
                yield shard, result
    finally:
        pool.close()


@dataclass
class _Pool:
    """The workers of a cluster: those that load, those that wait for a shard, and those that have one."""

    job: Job
    device: str
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
        """Hand the next shards to idle workers."""
        while waiting and self.idle:
            worker, shard = self.idle.pop(), waiting.popleft()
            self.busy[worker.run.remote(shard)] = worker, shard

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
        self.losses[shard] += 1
        if self.losses[shard] >= _LOSSES:
            what = "loading the model" if shard < 0 else f"shard {shard}"
            raise PpodError(
                f"{_LOSSES} Ray workers died one after another with {what} ({reason[:300]}): look at Ray's logs, and "
                "run the same command again: finished shards are kept"
            )

    def describe(self) -> str:
        text = f"{self.num_busy} Ray workers of at most {self.slots} at work"
        return text + (f", {len(self.loading)} waiting for the cluster or loading" if self.loading else "")

    def close(self) -> None:
        """End every worker, whatever it does."""
        import ray

        for worker in [*self.loading.values(), *self.idle, *(worker for worker, _ in self.busy.values())]:
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


def _read_shared_spec(root: Path, fingerprint: str) -> None:
    """Raises ConfigError where this worker does not see the driver's data set."""
    with contextlib.suppress(ConfigError):
        if read_manifest(root)[0].fingerprint == fingerprint:
            return
    raise ConfigError(
        f"the Ray node {socket.gethostname()} does not see {root}: put the data set into a folder that all nodes share"
    )


@dataclass(frozen=True)
class GenerateJob:
    """Make shards of a data set: `generate.make_shard` on a worker."""

    root: Path
    spec: "GenerationSpec"

    def prepare(self, device: str) -> Callable[[int], None]:
        """Raises ConfigError where the worker sees another folder or another model than the driver."""
        from ppod_data.diffusion.model import load_model
        from ppod_data.generate import make_shard, prepare_sampler

        spec = self.spec
        _read_shared_spec(self.root, spec.fingerprint)
        model = load_model(
            spec.model,
            revision=spec.revision,
            adapter=spec.adapter,
            device=device,
            compute_dtype=spec.compute_dtype,
        )
        if model.fingerprint != spec.policy_fingerprint:
            raise ConfigError(
                f"{spec.model} on the Ray node {socket.gethostname()} is another model than here "
                f"({model.fingerprint[:16]}, not {spec.policy_fingerprint[:16]}): copy the same files to every node"
            )
        sampler = prepare_sampler(spec, model)

        def work(shard: int) -> None:
            if not shard_committed(self.root, shard):
                refuse_sealed(self.root)
                make_shard(self.root, spec, sampler, shard)

        return work


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """Score shards of a data set: `score.score_shard` on a worker. The driver writes the rows."""

    root: Path
    fingerprint: str
    """Of the data set's spec."""
    rewards: tuple[tuple[str, str, str], ...]
    """(table, reward as `load_reward` takes it, revision that it has here)."""
    batch_size: int
    retry_failed: bool

    def prepare(self, device: str) -> "Callable[[int], list[ShardRows]]":
        """Raises ConfigError where the worker sees another folder or another reward model than the driver."""
        from ppod_data.dataset import Dataset
        from ppod_data.rewards import load_reward
        from ppod_data.score import score_shard

        _read_shared_spec(self.root, self.fingerprint)
        models = {table: load_reward(text, device) for table, text, _ in self.rewards}
        for table, text, revision in self.rewards:
            if models[table].revision != revision:
                raise ConfigError(
                    f"{text} on the Ray node {socket.gethostname()} is another reward model than here "
                    f"(revision {models[table].revision}, not {revision}): copy the same files to every node"
                )

        def work(shard: int) -> "list[ShardRows]":
            dataset = Dataset.open(self.root)  # anew: its list of excluded samples may have grown
            return score_shard(
                dataset, models, shard, self.batch_size, retry_failed=self.retry_failed, device=device
            )

        return work


def generate_on_ray(
    root: Path,
    spec: "GenerationSpec",
    device: str,
    *,
    shards: Sequence[int],
    license: str = "unknown",
    on_shard: Callable[[int, bool], None] = lambda shard, made: None,
    on_status: Callable[[str], None] = lambda text: None,
) -> "GenerateSummary":
    """`generate.generate` by the workers of a cluster, inside `connected`: the same files, arguments and errors.

    Raises:
        ConfigError: also where a worker does not see the folder, or sees another model under the spec's name.
        PpodError: also where a shard's workers die again and again.
    """
    from ppod_data.generate import summarize

    start, root = time.monotonic(), root.absolute()
    create_manifest(root, spec, license)
    there = set(committed_shards(root))
    missing = [shard for shard in shards if shard not in there]
    for shard in shards:
        if shard in there:
            on_shard(shard, False)
    if missing:
        refuse_sealed(root)
    with contextlib.closing(map_shards(GenerateJob(root, spec), missing, device, on_status)) as done:
        for shard, _ in done:
            if not shard_committed(root, shard) and shard not in committed_shards(root):
                raise ConfigError(
                    f"a Ray node made shard {shard} and it is not in {root}: put the data set into a folder that "
                    "all nodes share"
                )
            on_shard(shard, True)
    return summarize(spec, shards, missing, time.monotonic() - start)
