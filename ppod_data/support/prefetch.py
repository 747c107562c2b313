"""Work that is done while its result is waited for."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")
_COUNT = 2


def ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items, made by another thread up to two in advance: what it does must not need this one."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = deque(pool.submit(_some, items) for _ in range(_COUNT))
        try:
            while some := coming.popleft().result():
                coming.append(pool.submit(_some, items))
                yield from some
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _some(items: Iterator[_T]) -> list[_T]:
    """The next item, or none at the end."""
    return list(islice(items, 1))
