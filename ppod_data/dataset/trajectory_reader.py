"""A concurrent, prefetching reader of trajectories in object stores."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ppod_data.dataset.dataset import Dataset
from ppod_data.format.trajectory import Trajectory

_THREADS = 8
"""Concurrent requests; clients of object stores keep about as many connections."""
_AHEAD = 256 << 20
"""Bytes of trajectories to prefetch."""

Row = Mapping[str, Any]


class Reader:
    """A reader of the trajectories of a list of rows by index, with several threads for object stores.

    Results equal those of `Dataset.read_trajectory`, in the requested order. An error is raised for the first
    requested index that cannot be read, and never for a prefetched index that is not requested.
    """

    def __init__(self, locate: Callable[[int], tuple[Dataset, Row]]) -> None:
        """Create a reader.

        Args:
            locate: returns the data set of an index, and its row of `Dataset.trajectory_index`.
        """
        self._locate = locate
        self._pool: ThreadPoolExecutor | None = None
        self._started: dict[int, Future[Trajectory]] = {}

    @classmethod
    def of(cls, dataset: Dataset, rows: Sequence[Row]) -> "Reader":
        """Create a reader of the rows of one data set, by their index in the list."""
        return cls(lambda index: (dataset, rows[index]))

    def expect(self, indices: Iterable[int]) -> None:
        """Announce the next reads. From object stores the first ones are prefetched, as many as fit into 256 MiB."""
        expected: dict[int, Future[Trajectory]] = {}
        room = _AHEAD
        for index in dict.fromkeys(indices):
            dataset, row = self._locate(index)
            if isinstance(dataset.root, Path):
                continue
            room -= row["traj_nbytes"] or 0
            if room < 0:
                break
            expected[index] = self._submit(index)
        self._cancel()
        self._started = expected

    def read(self, indices: Sequence[int]) -> list[Trajectory]:
        """Return the trajectories of these indices. Raises as `Dataset.read_trajectory`."""
        rows = [self._locate(index) for index in indices]
        if all(isinstance(dataset.root, Path) for dataset, _ in rows):
            return [dataset.read_trajectory(row) for dataset, row in rows]
        futures = [self._submit(index) for index in indices]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            self._cancel()
            raise

    def _submit(self, index: int) -> "Future[Trajectory]":
        if index in self._started:
            return self._started.pop(index)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS)
        dataset, row = self._locate(index)
        return self._pool.submit(dataset.read_trajectory, row)

    def _cancel(self) -> None:
        for future in self._started.values():
            future.cancel()
        self._started = {}
