"""RichHF-18K: `filename` of an image and four scores, higher is better; each score is a dimension.

The file has no prompts. The rated images of one prompt of the data set are compared.
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
    """Yield a rating for every score of a record."""
    row = fields(record)
    rated = image("filename", text(need(row, "filename"), "filename"))
    scores = {
        dimension: number(row[name], name)
        for name, dimension in DIMENSIONS.items()
        if row.get(name) not in (None, "")
    }
    if not scores:
        raise BadRowError(f"all scores are missing: {', '.join(DIMENSIONS)}")
    for dimension, score in scores.items():
        yield Rating(prompt=None, group=None, image=rated, value=score, dimension=dimension)
