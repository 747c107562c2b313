"""Scoring by processes of this machine, if what is left takes longer than starting them.

The cost of a reward model is not known in advance. `auto` therefore scores the first shard in this process, and
measures the time and memory that it takes.
"""

import resource
import time
from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from ppod_data.cluster.jobs import ScoreJob, score_engine
from ppod_data.cluster.local_engine import map_shards
from ppod_data.cluster.local_processes import Choice, LocalProcesses, choose_processes
from ppod_data.rewards.servers.addresses import is_on_server
from ppod_data.support.progress import Progress

if TYPE_CHECKING:
    from ppod_data.scoring.score import Engine, Here, Scored

_WORTH_SECONDS = 20.0
"""Remaining time, in one process, from which other processes save time."""


def score_adaptively(job: ScoreJob, processes: LocalProcesses, progress: Progress) -> "Engine":
    """Return the `engine` of `score.score_all` that uses processes of this machine.

    A number of processes that the user gave is used from the first shard on. `auto` leaves a reward model on a server
    to one process, because the server does the work.
    """

    def pool(choice: Choice) -> "Engine":
        return score_engine(job, partial(map_shards, devices=choice.devices), progress)

    def engine(shards: Iterable[int], here: "Here") -> "Scored":
        if processes.count is not None:
            choice = choose_processes(processes, shares=processes.count, memory=0)
            yield from pool(choice)(shards, here)
            return
        if any(is_on_server(text) for _, text, _ in job.rewards):
            yield from here(shards)
            return
        remaining = iter(shards)
        start = time.monotonic()
        yield from here(islice(remaining, 1))
        seconds = time.monotonic() - start
        rest = list(remaining)
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        choice = choose_processes(processes, shares=len(rest), memory=memory)
        if len(choice.devices) == 1 or seconds * len(rest) < _WORTH_SECONDS:
            yield from here(rest)
            return
        progress.say(f"score: {choice.reason}")
        yield from pool(choice)(rest, here)

    return engine
