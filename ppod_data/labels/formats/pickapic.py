"""Pick-a-Pic v1 and v2: two images and the image that a person picked, or a tie.

`caption`, `image_0_uid`, `image_1_uid` (or their files in `jpg_0`, `jpg_1`), `label_0`, `label_1` (1 and 0, or 0.5 and
0.5 for a tie), `has_label`, `user_id`. The data set's URLs no longer resolve and are not read.
"""

from collections.abc import Iterator
from typing import Any

from ppod_data.labels.answers import (
    Answer,
    BadRowError,
    Comparison,
    Record,
    Skipped,
    annotator,
    fields,
    flag,
    image,
    need,
    number,
    text,
)

UNLABELLED = "without a label"
_ROUNDING = 1e-6


def parse(record: Record) -> Iterator[Answer]:
    """Yield the comparison of a record."""
    row = fields(record)
    if row.get("has_label") not in (None, "") and not flag(row["has_label"], "has_label"):
        yield Skipped(UNLABELLED)
        return
    first, second = (number(need(row, name), name, 0, 1) for name in ("label_0", "label_1"))
    if abs(first + second - 1) > _ROUNDING:
        raise BadRowError(f"label_0 {first:g} and label_1 {second:g} do not add up to 1")
    yield Comparison(
        prompt=text(need(row, "caption"), "caption"),
        a=image("image_0_uid", row.get("image_0_uid"), row.get("jpg_0")),
        b=image("image_1_uid", row.get("image_1_uid"), row.get("jpg_1")),
        label=first,
        annotator=annotator(row.get("user_id")),
    )


def columns(table: Any) -> Any:
    """Parse the valid rows of an Arrow table in bulk; None if the columns have other types.

    Returns:
        An Arrow table with `row`, `prompt`, `a`, `b`, `label` and `annotator`; the remaining rows are for `parse`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    types = {
        "caption": pa.types.is_string,
        "image_0_uid": pa.types.is_string,
        "image_1_uid": pa.types.is_string,
        "label_0": pa.types.is_floating,
        "label_1": pa.types.is_floating,
    }
    names = table.schema.names
    if not all(name in names and kind(table.schema.field(name).type) for name, kind in types.items()):
        return None
    if "has_label" in names and not pa.types.is_boolean(table.schema.field("has_label").type):
        return None
    good = pc.equal(pc.add(table["label_0"], table["label_1"]), 1.0)
    for name in ("label_0", "label_1"):
        good = pc.and_(good, pc.and_(pc.greater_equal(table[name], 0.0), pc.less_equal(table[name], 1.0)))
    if "has_label" in names:
        good = pc.and_(good, table["has_label"])
    people = table["user_id"] if "user_id" in names else pa.nulls(table.num_rows, pa.int64())
    if not pa.types.is_integer(people.type) and not pa.types.is_null(people.type):
        return None
    parsed = pa.table(
        {
            "row": pa.array(range(table.num_rows), pa.int64()),
            "prompt": table["caption"],
            "a": table["image_0_uid"],
            "b": table["image_1_uid"],
            "label": table["label_0"].cast(pa.float64()),
            "annotator": people.cast(pa.string()),
        }
    )
    return parsed.filter(good)
