"""Many trajectories of data sets in stores, at the same time and ahead of their use."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ppod_data.dataset.dataset import Dataset
from ppod_data.format.trajectory import Trajectory

_THREADS = 8
"""Requests at the same time; clients of stores keep about as many connections."""
_AHEAD = 256 << 20
"""Bytes of trajectories that are read before they are asked for."""

Row = Mapping[str, Any]


class Reader:
    """Reads the trajectories of a list of rows by their numbers; what is in a store by several threads.

    What it gives is what `Dataset.read_trajectory` gives, in the order asked for. So is what it raises: the error of
    the first number that cannot be read, and never that of a number that nobody asks for.
    """

    def __init__(self, place: Callable[[int], tuple[Dataset, Row]]) -> None:
        """`place`: the data set of a number, and its row of `Dataset.trajectory_index`."""
        self._place = place
        self._pool: ThreadPoolExecutor | None = None
        self._started: dict[int, Future[Trajectory]] = {}

    @classmethod
    def of(cls, dataset: Dataset, rows: Sequence[Row]) -> "Reader":
        """Of the rows of one data set, by their place in the list."""
        return cls(lambda number: (dataset, rows[number]))

    def expect(self, numbers: Iterable[int]) -> None:
        """Say what is read next: in stores the first of them are got now, as many as fit into 256 MiB."""
        expected: dict[int, Future[Trajectory]] = {}
        room = _AHEAD
        for number in dict.fromkeys(numbers):
            dataset, row = self._place(number)
            if isinstance(dataset.root, Path):
                continue
            room -= row["traj_nbytes"] or 0
            if room < 0:
                break
            expected[number] = self._begun(number)
        self._forget()
        self._started = expected

    def read(self, numbers: Sequence[int]) -> list[Trajectory]:
        """The trajectories of these numbers. Raises as `Dataset.read_trajectory`."""
        places = [self._place(number) for number in numbers]
        if all(isinstance(dataset.root, Path) for dataset, _ in places):
            return [dataset.read_trajectory(row) for dataset, row in places]
        started = [self._begun(number) for number in numbers]
        try:
            return [one.result() for one in started]
        except BaseException:
            for one in started:
                one.cancel()
            self._forget()
            raise

    def _begun(self, number: int) -> "Future[Trajectory]":
        if number in self._started:
            return self._started.pop(number)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS)
        dataset, row = self._place(number)
        return self._pool.submit(dataset.read_trajectory, row)

    def _forget(self) -> None:
        for one in self._started.values():
            one.cancel()
        self._started = {}
