"""Work of background threads, up to a number of items ahead of their use.

Example:
    >>> list(map_ahead(str.upper, ["a", "b"], threads=2, ahead=8))
    ['A', 'B']
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice, repeat
from typing import TypeVar

_S = TypeVar("_S")
_T = TypeVar("_T")
_COUNT = 2


def prefetch(items: Iterator[_T]) -> Iterator[_T]:
    """Iterate over `items` in a background thread, up to two items ahead. `items` must not wait on the consumer."""

    def next_items(_: None) -> list[_T]:
        return list(islice(items, 1))

    with closing(map_ahead(next_items, repeat(None), threads=1, ahead=_COUNT)) as batches:
        for batch in batches:
            if not batch:
                return
            yield from batch


def map_ahead(
    function: Callable[[_S], _T], items: Iterable[_S], *, threads: int, ahead: int
) -> Generator[_T, None, None]:
    """Yield `function` of each item in order, computed by `threads` threads up to `ahead` items in advance.

    An error of `function` is raised when its item is due.
    """
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[_T]] = deque()
        try:
            for item in items:
                coming.append(pool.submit(function, item))
                if len(coming) > ahead:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
