"""Work that is done while its result is waited for."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_COUNT = 2


def ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items, made by another thread up to two in advance: what it does must not need this one."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = deque(pool.submit(next, items, end) for _ in range(_COUNT))
        try:
            while (item := coming.popleft().result()) is not end:
                coming.append(pool.submit(next, items, end))
                yield item  # type: ignore[misc]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
