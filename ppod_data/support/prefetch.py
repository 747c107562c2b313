"""Prefetching of an iterator in a background thread."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")
_COUNT = 2


def prefetch(items: Iterator[_T]) -> Iterator[_T]:
    """Iterate over `items` in a background thread, up to two items ahead. `items` must not wait on the consumer."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = deque(pool.submit(_next, items) for _ in range(_COUNT))
        try:
            while item := pending.popleft().result():
                pending.append(pool.submit(_next, items))
                yield from item
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _next(items: Iterator[_T]) -> list[_T]:
    """Return the next item in a list, or an empty list at the end."""
    return list(islice(items, 1))
