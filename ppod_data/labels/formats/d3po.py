"""D3PO: a list with one entry per prompt, in sampling order; each entry is the list of its images' numbers.

The higher number is preferred; equal numbers are ties. Images are named only by position, so the file belongs to the
data set with the same prompts in the same order and the same number of images per prompt. The import rejects a file of
another shape (`check_shape`).
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

from ppod_data.errors import ConfigError
from ppod_data.labels.answers import (
    TIE,
    Answer,
    BadRowError,
    Comparison,
    Image,
    Place,
    Record,
    items,
    number,
)


def parse(record: Record) -> Iterator[Answer]:
    """Yield every pair of a prompt's images."""
    values = [number(value, "a preference") for value in items(record.value, "the record")]
    if len(values) < 2:
        raise BadRowError(f"{len(values)} images of a prompt: nothing to compare")
    for (i, first), (j, second) in combinations(enumerate(values), 2):
        label = TIE if first == second else float(first > second)
        a, b = (Image(None, place=Place(record.number, k)) for k in (i, j))
        yield Comparison(prompt=None, a=a, b=b, label=label)


def check_shape(records: Iterator[Record], num_images: Sequence[int], name: str) -> None:
    """Check that the file `name` has one record per prompt and one number per image, so that no label is misplaced.

    Args:
        records: records from `records.all_records`.
        num_images: number of images of each prompt of the data set.

    Raises:
        ConfigError: the shape differs.
    """
    count = 0
    for count, record in enumerate(records, 1):
        if record.number != count:
            raise ConfigError(
                f"{name}: line {count} is empty, so later entries would label other prompts: remove it"
            )
        expected = num_images[count - 1] if count <= len(num_images) else None
        if expected is not None and isinstance(record.value, list) and len(record.value) != expected:
            raise ConfigError(
                f"{name}:{count}: {len(record.value)} numbers, and the data set has {expected} images of this prompt: "
                "import the file into the data set that it was made from"
            )
    if count != len(num_images):
        raise ConfigError(
            f"{name}: entries for {count} prompts, and the data set has {len(num_images)}: import the "
            "file into the data set that it was made from"
        )
