"""Vocabulary of label records that all formats share, and checks of single fields.

A parser yields at least one answer for every record and never drops an answer silently. An unusable answer is
`Skipped` (not meant to be a label) or raises `BadRowError` (meant to be a label, and invalid).
"""

import base64
import binascii
import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

OVERALL = "overall"
TIE = 0.5
_MAX_TEXT = 20_000
_SHOWN = 60
_REASON = 400


class BadRowError(ValueError):
    """A record, or one of its answers, that cannot be a label; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Image:
    """Reference of a record to an image: a key (an id, a hash of the pixels, a file's path), its bytes, or both.

    Formats that name images only by position use `place`.
    """

    key: str | None
    data: bytes | None = None
    place: "Place | None" = None


@dataclass(frozen=True, slots=True)
class Place:
    """Image k, from 0, of the n-th prompt, from 1."""

    prompt: int
    k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Comparison of two images of one prompt, in the source's order."""

    prompt: str | None
    a: Image
    b: Image
    label: float
    """Probability that a is preferred; 0.5 is a tie."""
    votes: int | None = 1
    """Number of people behind the label; None if unknown."""
    annotator: str | None = None
    dimension: str = OVERALL
    license: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One image with a number. The images of a group are compared when all records are read."""

    prompt: str | None
    group: str | None
    """None: the images of one prompt of the data set form a group."""
    image: Image
    value: float
    """Higher is better."""
    annotator: str | None = None
    dimension: str = OVERALL


@dataclass(frozen=True, slots=True)
class Skipped:
    """An answer that is not meant to be a label, such as a cancelled one; counted by reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Bad:
    """An invalid answer of a record whose other answers may be valid."""

    reason: str


Answer: TypeAlias = Comparison | Rating | Skipped | Bad


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file."""

    value: Any
    file: str
    number: int
    """Line number, from 1, of a JSON-lines file; otherwise the record's number."""
    columns: str = ""
    """Header of a CSV file as it was read, for messages."""
    problem: "Bad | Skipped | None" = None
    """Why the record has no value; None for a record to parse."""


Parser: TypeAlias = Callable[[Record], Iterator[Answer]]


def shown(value: object) -> str:
    """Return a short, printable form of a value for a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def reason_of(error: BaseException) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())[:_REASON] or type(error).__name__


def fields(record: Record) -> Mapping[str, Any]:
    """Return the record as a mapping."""
    if not isinstance(record.value, Mapping):
        raise BadRowError(f"the record is {shown(record.value)}, not an object with named fields")
    return record.value


def need(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a required field."""
    value = row.get(name)
    if value is None or value == "":
        raise BadRowError(f"{name} is missing")
    return value


def text(value: Any, name: str) -> str:
    """Return a text that can be stored: valid Unicode, not empty, of limited length."""
    if not isinstance(value, str):
        raise BadRowError(f"{name} is {shown(value)}, not a text")
    stripped = value.strip()
    if not stripped:
        raise BadRowError(f"{name} is empty")
    if len(value) > _MAX_TEXT:
        raise BadRowError(f"{name} has {len(value)} characters, more than {_MAX_TEXT}")
    if any(unicodedata.category(character) == "Cs" or character == "\0" for character in value):
        raise BadRowError(f"{name} is not valid Unicode text: save the file as UTF-8")
    return stripped


def number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a finite number from low to high; texts with digits are accepted, because CSV files have only texts."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise BadRowError(f"{name} is {shown(value)}, not a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRowError(f"{name} is {shown(value)}, not a number")
    try:
        result = float(value)
    except OverflowError:
        raise BadRowError(f"{name} is too large for a number") from None
    if not math.isfinite(result) or not low <= result <= high:
        raise BadRowError(f"{name} is {shown(value)}, not a number from {low:g} to {high:g}")
    return result


def whole(value: Any, name: str, low: int = 0, high: int = 2**31 - 1) -> int:
    """Return a whole number from low to high."""
    result = number(value, name, low, high)
    if result != int(result):
        raise BadRowError(f"{name} is {shown(value)}, not a whole number")
    return int(result)


def flag(value: Any, name: str) -> bool:
    """Return a truth value: true, 1, "true" and their opposites."""
    if isinstance(value, str) and value.strip().lower() in {"true", "false", "0", "1"}:
        return value.strip().lower() in {"true", "1"}
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise BadRowError(f"{name} is {shown(value)}, not true or false")


def items(value: Any, name: str, length: int | None = None) -> Sequence[Any]:
    """Return a list; check its length if `length` is given."""
    if not isinstance(value, list | tuple):
        raise BadRowError(f"{name} is {shown(value)}, not a list")
    if length is not None and len(value) != length:
        raise BadRowError(f"{name} has {len(value)} entries, not {length}")
    return value


def annotator(value: Any) -> str | None:
    """Return the annotator's name, a text or a number, or None. Messages never quote it."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRowError("the annotator is neither a text nor a whole number")
    return text(str(value), "the annotator")


def image(name: str, *values: Any) -> Image:
    """Build an image from the fields that may name it: keys, bytes, `datasets` {bytes, path}, base64 data URLs."""
    key: str | None = None
    data: bytes | None = None
    for value in values:
        parts = [value.get("path"), value.get("bytes")] if isinstance(value, Mapping) else [value]
        for part in parts:
            if isinstance(part, bytes) and part:
                data = data or part
            elif isinstance(part, str) and part.startswith("data:"):
                data = data or _data_url(part, name)
            elif isinstance(part, str) and part.strip():
                key = key or text(part, name)
            elif part is not None and not isinstance(part, str | bytes):
                raise BadRowError(f"{name} is {shown(part)}, neither an image nor the name of an image")
    if key is None and data is None:
        raise BadRowError(f"{name} is missing")
    return Image(key, data)


def _data_url(value: str, name: str) -> bytes:
    head, _, body = value.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error):
        raise BadRowError(f"{name} is a data URL without valid base64") from None


def ranking(
    images: Sequence[Image], ranks: Sequence[float], *, prompt: str | None, annotator: str | None = None
) -> Iterator[Comparison]:
    """Yield every pair of ranked images; the lower rank is preferred, equal ranks are ties."""
    for (a, rank_a), (b, rank_b) in combinations(zip(images, ranks, strict=True), 2):
        label = TIE if rank_a == rank_b else float(rank_a < rank_b)
        yield Comparison(prompt=prompt, a=a, b=b, label=label, annotator=annotator)


def each(record: Record, parse: Parser) -> Iterator[Answer]:
    """Yield the answers of a record; a parser's error becomes `Bad`, no answer becomes `Skipped`."""
    if record.problem is not None:
        yield record.problem
        return
    answers = 0
    try:
        for answer in parse(record):
            answers += 1
            yield answer
    except BadRowError as error:
        answers += 1
        yield Bad(str(error))
    if not answers:
        yield Skipped("nothing answered")
