"""Many preemptible workers on one data set: when each does its next step is drawn, what it does is real.

A worker makes one shard after another, as `ppod-gen` chooses them. At any step (between two samples of a tar, at any
sync, rename or link of its commit) it may be killed, or put to sleep for long; a new one then takes its name, loads the
model and goes on. Time is in mean durations of a shard. In a `Folder` all samples are added and all shards committed by
the real `ShardWriter`; in `Memory` a commit is one entry of a set, for figures that no disk could give.

A kill lets nothing of the worker reach the disk any more, and leaves what it wrote: as SIGKILL does.
"""

import heapq
import math
import os
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from ppod_data.format.shards import Sample, ShardWriter, active_shards, shard_committed
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.generate import free_first, select_shards
from tests.support.toy import make_sample

_OPERATIONS = ("fsync", "replace", "link", "unlink")
_SAMPLES_SHARE = 0.9
"""Of a shard's time; the rest is its commit."""
_LOADING, _DOWN, _ASLEEP = 0.3, 1.0, 30.0
"""Loading the model, mean time until a killed worker is replaced, sleep of a straggler."""
_COMMIT_STEPS = 8


class Making(Protocol):
    """A shard in hand."""

    def step(self) -> bool:
        """Do the next step of it; True when it is done."""

    def kill(self) -> None:
        """The worker dies here."""


class Store(Protocol):
    """Where shards are committed."""

    def is_made(self, shard: int) -> bool: ...

    def look(self) -> Callable[[int], bool]:
        """Gives whether somebody has a shard in hand."""

    def begin(self, shard: int, *, late: bool) -> Making:
        """late: by a worker that slept, on other hardware."""


@dataclass
class Memory:
    """Shards that are numbers only."""

    num_samples: int
    made: set[int] = field(default_factory=set)
    hands: Counter[int] = field(default_factory=Counter)

    def is_made(self, shard: int) -> bool:
        return shard in self.made

    def look(self) -> Callable[[int], bool]:
        return lambda shard: self.hands[shard] > 0

    def begin(self, shard: int, *, late: bool) -> "_Number":
        self.hands[shard] += 1
        return _Number(self, shard)


@dataclass
class _Number:
    store: Memory
    shard: int
    done: int = 0

    def step(self) -> bool:
        self.done += 1
        if self.done < self.store.num_samples + _COMMIT_STEPS:
            return False
        self.store.made.add(self.shard)
        self.kill()
        return True

    def kill(self) -> None:
        self.store.hands[self.shard] -= 1


@dataclass
class Folder:
    """The folder of a data set; used inside `stepwise`."""

    root: Path
    spec: GenerationSpec
    kills: Counter[str] = field(default_factory=Counter)
    """What the killed workers were about to do."""
    num_other: int = 0
    """Shards that were written with other bytes, long after they were committed."""

    @cached_property
    def samples(self) -> Callable[[int, int], Sample]:
        """(index, salt) -> the sample, made once."""
        return cache(partial(make_sample, self.spec))

    def is_made(self, shard: int) -> bool:
        return shard_committed(self.root, shard)

    def look(self) -> Callable[[int], bool]:
        return active_shards(self.root)

    def begin(self, shard: int, *, late: bool) -> "_Written":
        salt = int(late and self.is_made(shard))
        self.num_other += salt
        samples = [self.samples(index, salt) for index in self.spec.shard_range(shard)]
        return _Written(self, ShardWriter(self.root, shard).__enter__(), samples)


class _Written:
    """A shard in the hands of the real writer; its commit runs in a thread that stops before every operation."""

    def __init__(self, store: Folder, writer: ShardWriter, samples: list[Sample]) -> None:
        self._store, self._writer, self._samples = store, writer, samples
        self._baton: _Baton | None = None

    def step(self) -> bool:
        if self._samples:
            self._writer.add(self._samples.pop(0))
            return False
        if self._baton is None:
            self._baton = _Baton(lambda: self._writer.__exit__(None, None, None))
        return self._baton.go_on()

    def kill(self) -> None:
        if self._baton is None:
            self._store.kills["a sample"] += 1
            with _dead():
                error = KeyboardInterrupt()
                self._writer.__exit__(KeyboardInterrupt, error, None)
        else:
            self._store.kills[self._baton.next_operation] += 1
            self._baton.kill()


class _Baton:
    """A thread that does one operation each time it is told to."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.next_operation = "begin"
        self._turn, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._ended = False
        self.is_dead = False

        def run() -> None:
            _here.baton = self
            self._turn.acquire()
            try:
                work()
            except BaseException as error:
                self._error = error
            self._ended = True
            self._stopped.release()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def before(self, operation: str) -> None:
        """Called by the thread: wait for the turn to do this."""
        if not self.is_dead:
            self.next_operation = operation
            self._stopped.release()
            self._turn.acquire()

    def go_on(self) -> bool:
        """Let it do its next operation; True when all are done."""
        self._turn.release()
        self._stopped.acquire()
        if self._ended:
            self._thread.join()
            if self._error is not None and not self.is_dead:
                raise self._error
        return self._ended

    def kill(self) -> None:
        """Let it end without doing anything more."""
        self.is_dead = True
        while not self.go_on():
            pass


_here = threading.local()


@contextmanager
def _dead() -> Iterator[None]:
    """Nothing that this thread does reaches the disk."""
    _here.is_dead = True
    try:
        yield
    finally:
        _here.is_dead = False


@contextmanager
def stepwise() -> Iterator[None]:
    """Operations on the disk wait for their turn in the threads of `_Baton`, and are not done by the dead."""
    real = {name: getattr(os, name) for name in _OPERATIONS}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            baton: _Baton | None = getattr(_here, "baton", None)
            if baton is not None:
                baton.before(name)
            if getattr(_here, "is_dead", False) or (baton is not None and baton.is_dead):
                return None
            return real[name](*arguments, **options)

        return call

    for name in _OPERATIONS:
        setattr(os, name, wrapped(name))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


Order = Callable[[list[int], Callable[[int], bool], Callable[[], Callable[[int], bool]]], Iterator[int]]
"""(shards, which are made, a look at which are in hand) -> the shards in the order in which a worker takes them."""


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What happens to the workers."""

    num_workers: int
    share: str = "ranks"
    """"ranks": each worker has a share of its own, and its replacement has it again; "driver": one process hands out
    shards, as on a Ray cluster; "none": all are alike."""
    kill_rate: float = 0.1
    """Kills of a worker in the time of a shard."""
    straggling: float = 0.01
    """The share of shards in which the worker falls asleep."""
    spread: float = 0.2
    """Of the shards' durations: their standard deviation, roughly."""
    order: Order = free_first
    """How a worker goes through its shards."""


@dataclass
class Outcome:
    """What it took; work is in shards."""

    needed: int
    computed: float = 0.0
    twice: float = 0.0
    """Of what was computed: whole shards that another worker had committed."""
    kills: int = 0
    sleeps: int = 0
    time: float = 0.0

    @property
    def wasted(self) -> float:
        """Work over what was needed, as its share."""
        return self.computed / self.needed - 1


@dataclass
class _Worker:
    """A process: one of those that have had this name."""

    name: int
    shards: Iterator[int]
    shard: int = -1
    making: Making | None = None
    pace: float = 1.0
    """How long this shard takes."""
    steps: int = 0
    """Of this shard, done."""
    sleep_at: int = -1
    has_slept: bool = False
    """It is then no more killed, and ends after this shard: its name is another's."""


def simulate(spec: GenerationSpec, store: Store, weather: Weather, seed: int) -> Outcome:
    """Run until every shard is made, and everybody who slept has woken up and ended."""
    random.seed(seed)  # `free_first` draws from it
    run = _Run(spec, store, weather, random.Random(seed))
    for name in range(weather.num_workers):
        run.start(run.chance.random(), name)
    while run.queue:
        now, _, worker = heapq.heappop(run.queue)
        if worker.making is not None or run.take(worker):
            run.step(now, worker)
    assert not run.missing, "shards that nobody made"
    return run.outcome


class _Run:
    """What is going on."""

    def __init__(self, spec: GenerationSpec, store: Store, weather: Weather, chance: random.Random) -> None:
        self.spec, self.store, self.weather, self.chance = spec, store, weather, chance
        self.outcome = Outcome(spec.num_shards)
        self.missing = set(range(spec.num_shards))
        self.queue: list[tuple[float, int, _Worker]] = []
        """(time, a number that breaks ties, who does the next step then)."""
        self._handed_out = deque(range(spec.num_shards))
        self._count = 0

    def put(self, time: float, worker: _Worker) -> None:
        self._count += 1
        heapq.heappush(self.queue, (time, self._count, worker))

    def start(self, time: float, name: int) -> None:
        """A new process under this name."""
        if self.weather.share == "driver":
            shards = _until_empty(self._handed_out)
        else:
            place = (name, self.weather.num_workers) if self.weather.share == "ranks" else (0, 1)
            chosen = select_shards(self.spec, None, *place)
            shards = self.weather.order(chosen, self.store.is_made, self.store.look)
        self.put(time + _LOADING, _Worker(name, shards))

    def lose(self, now: float, worker: _Worker) -> None:
        """It is replaced, and a driver hands its shard out again."""
        self._handed_out.appendleft(worker.shard)
        self.start(now + self.chance.expovariate(1 / _DOWN), worker.name)

    def take(self, worker: _Worker) -> bool:
        """Begin the next shard that is not made; False where there is none, and the worker ends."""
        shard = next((shard for shard in worker.shards if shard in self.missing), None)
        if shard is None:
            return False
        worker.shard, worker.steps, worker.making = shard, 0, self.store.begin(shard, late=False)
        worker.pace = max(0.1, self.chance.gauss(1.0, self.weather.spread))
        anywhere = self.chance.randrange(len(self.spec.shard_range(shard)) + _COMMIT_STEPS)
        asleep = self.chance.random() < self.weather.straggling
        worker.sleep_at = self.chance.choice([0, anywhere]) if asleep else -1
        return True

    def step(self, now: float, worker: _Worker) -> None:
        """A step of the shard in hand, or what comes in between."""
        assert worker.making is not None
        size = len(self.spec.shard_range(worker.shard))
        share = _SAMPLES_SHARE / size if worker.steps < size else (1 - _SAMPLES_SHARE) / _COMMIT_STEPS
        lasts = share * worker.pace
        if not worker.has_slept:
            if self.chance.random() < 1 - math.exp(-self.weather.kill_rate * lasts):
                worker.making.kill()
                self.outcome.kills += 1
                self.outcome.computed += lasts / 2
                self.lose(now, worker)
                return
            if worker.steps == worker.sleep_at:
                self.outcome.sleeps += 1
                worker.has_slept = True
                self.lose(now, worker)
                self.put(now + _ASLEEP * (0.5 + self.chance.random()), worker)
                return
        elif worker.steps == 0:  # from the first sample on it is other hardware
            worker.making.kill()
            worker.making = self.store.begin(worker.shard, late=True)
        self.outcome.computed += lasts
        worker.steps += 1
        if worker.making.step():
            self.end_shard(now + lasts, worker)
        else:
            self.put(now + lasts, worker)

    def end_shard(self, now: float, worker: _Worker) -> None:
        """Its commit is done, or did nothing."""
        if worker.shard in self.missing:
            self.missing.discard(worker.shard)
            self.outcome.time = now
        else:
            self.outcome.twice += worker.pace
        worker.making = None
        if not worker.has_slept:
            self.put(now, worker)


def _until_empty(shards: deque[int]) -> Iterator[int]:
    while shards:
        yield shards.popleft()


def in_turn(shards: list[int], *_: Any) -> Iterator[int]:
    """For comparison: ascending, whoever works on them."""
    yield from shards


def shuffled(shards: list[int], *_: Any) -> Iterator[int]:
    """For comparison: in any order."""
    yield from random.sample(shards, len(shards))
