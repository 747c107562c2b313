"""Answers of `ppod-pair judge`: two images, shown in both orders to a vision language model.

`first_preferred` holds the probability that the image shown first is preferred: for the order of `shown`, and for the
opposite order. The label is the mean over both orders, so that a bias to the first image cancels.
"""

from collections.abc import Iterator

from ppod_data.labels.answers import (
    OVERALL,
    Answer,
    Comparison,
    Record,
    Skipped,
    annotator,
    fields,
    image,
    items,
    need,
    number,
    text,
)

UNREADABLE = "the judge's answer could not be read"


def parse(record: Record) -> Iterator[Answer]:
    """Yield the comparison of an answer."""
    row = fields(record)
    a, b = (image("shown", one) for one in items(need(row, "shown"), "shown", 2))
    if row.get("unreadable") is not None:
        yield Skipped(UNREADABLE)
        return
    shares = items(need(row, "first_preferred"), "first_preferred", 2)
    first, second = (number(share, "first_preferred", 0, 1) for share in shares)
    yield Comparison(
        prompt=None,
        a=a,
        b=b,
        label=(first + 1 - second) / 2,
        annotator=annotator(need(row, "judge")),
        dimension=text(row.get("dimension", OVERALL), "dimension"),
    )
