"""What an engine runs: a job, which every worker prepares once and then applies to shards."""

from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol

from ppod_data.support.progress import Progress


class Job(Protocol):
    """The work of the workers, sent to each of them once."""

    def prepare(self, device: str, progress: Progress) -> Callable[[int], Any]:
        """Load what every shard needs, on "cpu" or "cuda". Return the function of a shard's number.

        The function counts its units by `progress.advance`. An engine may ignore them and count `units` instead.
        """

    def units(self, shard: int, result: Any) -> int:
        """Return the units of a finished shard, for example its images."""


class MapShards(Protocol):
    """An engine's function: the work of a job on shards, by several workers."""

    def __call__(
        self, job: Job, shards: Iterable[int], *, progress: Progress
    ) -> Generator[tuple[int, Any], None, None]:
        """Yield (shard, the job's result) in order of completion. Draw shards as workers become free."""
