"""RichHF-18K: `filename` of an image and four scores of it, higher is better, each a dimension of its own.

The file has no prompts: the rated images of one prompt of the data set are compared.
"""

from collections.abc import Iterator

from ppod_data.labels.answers import (
    OVERALL,
    Answer,
    BadRowError,
    Rating,
    Record,
    fields,
    image,
    need,
    number,
    text,
)

DIMENSIONS = {
    "overall_score": OVERALL,
    "aesthetics_score": "aesthetics",
    "artifact_score": "artifact",
    "misalignment_score": "alignment",
}


def parse(record: Record) -> Iterator[Answer]:
    row = fields(record)
    rated = image("filename", text(need(row, "filename"), "filename"))
    scores = {
        dimension: number(row[name], name)
        for name, dimension in DIMENSIONS.items()
        if row.get(name) not in (None, "")
    }
    if not scores:
        raise BadRowError(f"none of the scores {', '.join(DIMENSIONS)} is there")
    for dimension, score in scores.items():
        yield Rating(prompt=None, group=None, image=rated, value=score, dimension=dimension)
