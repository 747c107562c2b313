"""Argilla records with a question that compares two images, and Open Image Preferences, which uses the same form.

Fields `image_1` and `image_2` (in `fields`, in `images`, or on the record itself), `prompt` (or `caption`), and the
answers to a question: `responses` {question: [{value, user_id, status}]}, or the columns `<question>.responses`,
`<question>.responses.users` and `.status` of a data set on the Hub. An answer is the name of a field or a word for a
tie. Rows with `chosen` and `rejected` are supported too.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ppod_data.labels.answers import (
    TIE,
    Answer,
    Bad,
    BadRowError,
    Comparison,
    Record,
    Skipped,
    annotator,
    each,
    fields,
    image,
    items,
    number,
    shown,
    text,
)

NOT_SUBMITTED = "not submitted"
TIES = frozenset({"tie", "both", "both_good", "both_bad", "equal", "neither", "none", "same"})
_NAMES = (("image_1", "image_2"), ("image1", "image2"), ("image_a", "image_b"))
_SUBMITTED = {None, "", "submitted"}


def parse(record: Record) -> Iterator[Answer]:
    """Yield the answers of an Argilla record."""
    row = fields(record)
    content = _content(row)
    prompt = text(content.get("prompt") or content.get("caption"), "prompt")
    if "chosen" in row and "rejected" in row:
        a, b = image("chosen", row["chosen"]), image("rejected", row["rejected"])
        yield Comparison(prompt=prompt, a=a, b=b, label=1.0)
        return
    names = next((names for names in _NAMES if any(name in content for name in names)), None)
    if names is None:
        raise BadRowError("no fields image_1 and image_2")
    a, b = (image(name, content.get(name)) for name in names)
    for value, person, status in _responses(row):

        def of_one_person(_: Record, value: Any = value, person: Any = person) -> Iterator[Answer]:
            label = _label(value, names)
            yield Comparison(prompt=prompt, a=a, b=b, label=label, annotator=annotator(person))

        if isinstance(status, str | None) and status in _SUBMITTED:
            yield from each(record, of_one_person)
        elif status in ("discarded", "draft", "pending"):
            yield Skipped(NOT_SUBMITTED)
        else:
            yield Bad(f"the status of an answer is {shown(status)}")


def _content(row: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("fields", "images"):
        inner = row.get(name)
        if isinstance(inner, Mapping):
            return {**row, **inner}
    return row


def _responses(row: Mapping[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (value, person, status) of each answer to the only question."""
    nested = row.get("responses")
    if isinstance(nested, Mapping):
        if len(nested) > 1:
            raise BadRowError(f"{len(nested)} questions: keep the question that compares the images")
        for answers in nested.values():
            for answer in items(answers, "responses"):
                inner = fields(Record(answer, "", 0))
                yield inner.get("value"), inner.get("user_id"), inner.get("status")
        return
    questions = [name for name in row if isinstance(name, str) and name.endswith(".responses")]
    if len(questions) != 1:
        raise BadRowError(f"{len(questions)} columns that end in .responses, not one")
    values = items(row[questions[0]] or [], questions[0])
    people = _parallel_column(row, f"{questions[0]}.users", len(values))
    statuses = _parallel_column(row, f"{questions[0]}.status", len(values))
    yield from zip(values, people, statuses, strict=True)


def _parallel_column(row: Mapping[str, Any], name: str, length: int) -> Sequence[Any]:
    value = row.get(name)
    return [None] * length if value is None else items(value, name, length)


def _label(value: Any, names: Sequence[str]) -> float:
    """Return the probability that the first image is preferred, from a choice or a ranking of both."""
    if isinstance(value, list | tuple):
        ranks: dict[Any, float] = {}
        for entry in value:
            inner = fields(Record(entry, "", 0))
            ranks[text(inner.get("value"), "an answer")] = number(inner.get("rank"), "rank")
        if set(ranks) != set(names):
            raise BadRowError(f"a ranking of {shown(sorted(ranks))}, not of {' and '.join(names)}")
        first, second = (ranks[name] for name in names)
        return TIE if first == second else float(first < second)
    choice = text(value, "an answer")
    if choice in names:
        return float(choice == names[0])
    if choice.lower().replace(" ", "_") in TIES:
        return TIE
    raise BadRowError(f"an answer is {shown(choice)}, neither {names[0]}, {names[1]} nor a tie")
