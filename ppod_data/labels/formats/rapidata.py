"""Rapidata: `prompt`, `image1`, `image2` (or their names in `image1_path`, `image2_path`), and the number of votes.

The votes are `votes_image1` and `votes_image2`. The label is the share of the first.
"""

from collections.abc import Iterator

from ppod_data.labels.answers import (
    Answer,
    Comparison,
    Record,
    Skipped,
    fields,
    image,
    need,
    text,
    whole,
)

NO_VOTES = "without votes"


def parse(record: Record) -> Iterator[Answer]:
    """Yield the comparison of a record."""
    row = fields(record)
    first, second = (whole(need(row, name), name, 0, 10**9) for name in ("votes_image1", "votes_image2"))
    if first + second == 0:
        yield Skipped(NO_VOTES)
        return
    yield Comparison(
        prompt=text(need(row, "prompt"), "prompt"),
        a=image("image1", row.get("image1_path"), row.get("image1")),
        b=image("image2", row.get("image2_path"), row.get("image2")),
        label=first / (first + second),
        votes=first + second,
    )
