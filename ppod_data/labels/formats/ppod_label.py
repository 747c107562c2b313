"""Journals of `ppod-pair label`: the images that were shown, and the best of them.

The first of two shown images is a, so that a bias to one side can be measured. The best of several is preferred to
each other image; a tie of several is a tie of every two.
"""

from collections.abc import Iterator
from itertools import combinations

from ppod_data.labels.answers import (
    OVERALL,
    TIE,
    Answer,
    BadRowError,
    Comparison,
    Record,
    Skipped,
    annotator,
    fields,
    image,
    items,
    need,
    shown,
    text,
)

SKIPPED = "skipped by the annotator"
_MOST = 9


def parse(record: Record) -> Iterator[Answer]:
    """Yield the comparisons of an answer."""
    row = fields(record)
    images = [image("shown", one) for one in items(need(row, "shown"), "shown")]
    if not 2 <= len(images) <= _MOST:
        raise BadRowError(f"shown has {len(images)} images, not 2 to {_MOST}")
    who, answer = annotator(row.get("annotator")), row.get("answer")
    dimension = text(row.get("dimension", OVERALL), "dimension")
    if answer == "skip":
        yield Skipped(SKIPPED)
    elif answer == "tie":
        for a, b in combinations(images, 2):
            yield Comparison(prompt=None, a=a, b=b, label=TIE, annotator=who, dimension=dimension)
    else:
        if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(images):
            raise BadRowError(f"answer is {shown(answer)}, not the index of an image, tie or skip")
        for first, second in combinations(range(len(images)), 2):
            if answer in (first, second):
                yield Comparison(
                    prompt=None,
                    a=images[first],
                    b=images[second],
                    label=float(answer == first),
                    annotator=who,
                    dimension=dimension,
                )
