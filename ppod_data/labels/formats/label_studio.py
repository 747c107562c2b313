"""Label Studio's JSON export: pairwise comparisons and rankings; cancelled answers are skipped.

A task's `data` names its two images (`a_id` and `b_id` in ppod's own tasks, otherwise `image_a` and `image_b` or
similar), left and right. For a ranking it lists its `items`, each with an `id`. A tie is an additional choice, because
the pairwise control has no tie.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ppod_data.labels.answers import (
    TIE,
    Answer,
    BadRowError,
    Comparison,
    Image,
    Record,
    Skipped,
    annotator,
    each,
    fields,
    image,
    items,
    ranking,
    shown,
    text,
)
from ppod_data.labels.formats.argilla import TIES

CANCELLED = "cancelled"
NOT_ANNOTATED = "not annotated"
_NAMES = (("image_a", "image_b"), ("image_1", "image_2"), ("image1", "image2"), ("left", "right"))


def parse(record: Record) -> Iterator[Answer]:
    """Yield the answers of a task's annotations."""
    task = fields(record)
    data = task.get("data")
    if not isinstance(data, Mapping):
        raise BadRowError("no data in the task: export as JSON, not as JSON-MIN, which drops the data")
    annotations = items(task.get("annotations") or [], "annotations")
    if not annotations:
        yield Skipped(NOT_ANNOTATED)
    for one in annotations:
        yield from each(Record((data, one), record.file, record.number), _annotation)


def _annotation(record: Record) -> Iterator[Answer]:
    data, value = record.value
    annotation = fields(Record(value, "", 0))
    if annotation.get("was_cancelled"):
        yield Skipped(CANCELLED)
        return
    results = [fields(Record(one, "", 0)) for one in items(annotation.get("result") or [], "result")]
    if not results:
        yield Skipped("without a result")
        return
    who = annotation.get("completed_by")
    person = annotator(who.get("id") if isinstance(who, Mapping) else who)
    prompt = None
    if data.get("prompt") is not None or data.get("caption") is not None:
        prompt = text(data.get("prompt") or data.get("caption"), "prompt")
    kinds = [one.get("type") for one in results]
    if "ranker" in kinds:
        order = _order(_value(results[kinds.index("ranker")], "ranker"))
        images = _items(data)
        if sorted(order) != sorted(images):
            raise BadRowError(f"a ranking of {shown(order)}, not of the items of the task")
        ranks = [float(order.index(name)) for name in images]
        yield from ranking(list(images.values()), ranks, prompt=prompt, annotator=person)
        return
    a, b = _pair(data)
    yield Comparison(prompt=prompt, a=a, b=b, label=_choice(results, kinds), annotator=person)


def _choice(results: list[Mapping[str, Any]], kinds: list[Any]) -> float:
    """Return the probability that the left image is preferred."""
    chosen: list[str] = []
    for one, kind in zip(results, kinds, strict=True):
        if kind == "choices":
            chosen += [text(word, "a choice").lower() for word in items(_value(one, "choices"), "choices")]
    tied = any(word.replace(" ", "_") in TIES for word in chosen)
    if "pairwise" not in kinds:
        if tied:
            return TIE
        raise BadRowError("neither a pairwise result, nor a ranking, nor the choice of a tie")
    selected = _value(results[kinds.index("pairwise")], "selected")
    if selected not in ("left", "right"):
        raise BadRowError(f"selected is {shown(selected)}, neither left nor right")
    if tied:
        raise BadRowError("a preferred image and a tie in one answer")
    return float(selected == "left")


def _value(result: Mapping[str, Any], name: str) -> Any:
    value = result.get("value")
    if not isinstance(value, Mapping) or name not in value:
        raise BadRowError(f"a result of type {shown(result.get('type'))} without {name}")
    return value[name]


def _order(value: Any) -> list[str]:
    """Return the ids, best first; the export has no order between several buckets."""
    if isinstance(value, Mapping):
        lists = [one for name, one in value.items() if name != "_"] or list(value.values())
        if len(lists) != 1:
            raise BadRowError("a ranking into several buckets: the export does not say which one is better")
        value = lists[0]
    order = [text(str(one), "an item") for one in items(value, "the ranking")]
    if len(order) < 2:
        raise BadRowError(f"a ranking of {len(order)} items: nothing to compare")
    return order


def _items(data: Mapping[str, Any]) -> dict[str, Image]:
    entries = next((value for value in data.values() if isinstance(value, list | tuple)), None)
    images = {}
    for one in items(entries, "the items of the task"):
        item = fields(Record(one, "", 0))
        name = text(str(item.get("id", "")), "the id of an item")
        images[name] = image("an item", name)
    return images


def _pair(data: Mapping[str, Any]) -> tuple[Image, Image]:
    for left, right in _NAMES:
        if left in data or right in data:
            first, second = (
                ("a_id", "b_id") if left == "image_a" else (f"{left}_id", f"{right}_id")
            )  # prefer ids, because the export rewrites the images' addresses
            return (
                image(left, data.get(first), data.get(left)),
                image(right, data.get(second), data.get(right)),
            )
    raise BadRowError("data does not name two images: call them image_a and image_b")
