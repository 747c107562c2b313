"""HPDv3: `prompt`, `path1` (the preferred image), `path2`, and optionally the strength of the preference.

The strength is `choice_dist`, the votes for each image, or `confidence`, the share that preferred the first. Without
either, the label is hard.
"""

from collections.abc import Iterator

from ppod_data.labels.answers import (
    Answer,
    BadRowError,
    Comparison,
    Record,
    fields,
    image,
    items,
    need,
    number,
    text,
)


def parse(record: Record) -> Iterator[Answer]:
    """Yield the comparison of a record."""
    row = fields(record)
    label, votes = 1.0, None
    if row.get("choice_dist") is not None:
        counts = [number(one, "choice_dist", 0, 1e9) for one in items(row["choice_dist"], "choice_dist", 2)]
        total = sum(counts)
        if total == 0:
            raise BadRowError("choice_dist holds no vote")
        label = max(counts) / total
        votes = int(total) if all(one == int(one) for one in counts) and total > 1 else None
    elif row.get("confidence") not in (None, ""):
        label = number(row["confidence"], "confidence", 0, 1)
        if label < 0.5:
            raise BadRowError(f"confidence is {label:g}, but path1 is the preferred image only from 0.5 on")
    yield Comparison(
        prompt=text(need(row, "prompt"), "prompt"),
        a=image("path1", row.get("path1")),
        b=image("path2", row.get("path2")),
        label=label,
        votes=votes,
    )
