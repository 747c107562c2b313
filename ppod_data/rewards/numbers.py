"""Conversion of a reward function's result to one number for each image.

Accepted are lists, tuples, generators, NumPy arrays and tensors of any device, with one number an image or rows
of one number each. Any other result is rejected with a description, never guessed at.
"""

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from ppod_data.errors import RewardError


@dataclass(frozen=True)
class NoScore:
    """The reason why an image has no score."""

    reason: str
    is_declined: bool
    """The reward declined the image or its prompt on purpose; otherwise the reward may be broken."""


def as_numbers(name: str, values: Any, count: int) -> list[float | NoScore | None]:
    """Return `count` numbers from the result of the reward `name`; None or `NoScore` for an image without a score.

    Raises:
        RewardError: the result is not one number for each image.
    """
    plain = _plain(values)
    if count == 1 and _is_number(plain):
        return [_number(name, plain)]  # a batch of one, if the function squeezes the axis away
    if isinstance(plain, str | bytes | Mapping | Set) or not isinstance(plain, Iterable):
        raise _wrong(name, f"a {type(values).__name__}", count)
    items = [_plain(item) for item in plain]
    items = [_plain(item[0]) if isinstance(item, list) and len(item) == 1 else item for item in items]
    odd = [item for item in items if not (item is None or isinstance(item, NoScore) or _is_number(item))]
    if odd and isinstance(values, tuple):
        raise _wrong(name, f"a tuple of {' and '.join(type(item).__name__ for item in items[:3])}", count)
    if len(items) != count:
        raise _wrong(name, f"{len(items)} values", count)
    if odd:
        raise _wrong(name, f"{str(odd[0])[:40]!r} (a {type(odd[0]).__name__}) among its values", count)
    return [item if item is None or isinstance(item, NoScore) else _number(name, item) for item in items]


def _plain(value: Any) -> Any:
    """Convert tensors and arrays to Python numbers and lists. Other values are returned unchanged."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return value.tolist() if hasattr(value, "tolist") else value


def _is_number(value: Any) -> bool:
    return not isinstance(value, str | bytes | complex) and hasattr(value, "__float__")


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"{name} returned a {type(value).__name__}, which is not a number ({error})"
        ) from error


def _wrong(name: str, description: str, count: int) -> RewardError:
    images = f"{count} images" if count > 1 else "1 image"
    return RewardError(
        f"{name} returned {description} for {images}: it must return one number for each image, and nothing else"
    )
