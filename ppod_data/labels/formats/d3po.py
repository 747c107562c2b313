"""D3PO: a list with an entry a prompt, in the order in which they were sampled, each the list of its images' numbers.

The higher number is preferred, equal numbers are ties. The images are named by their place alone, so the file belongs
to the data set whose n-th prompt its n-th entry is, with as many images a prompt: the import refuses a file of another
shape (`check_shape`).
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
    values = [number(one, "a preference") for one in items(record.value, "the record")]
    if len(values) < 2:
        raise BadRowError(f"{len(values)} images of a prompt: nothing to compare")
    for (i, first), (j, second) in combinations(enumerate(values), 2):
        label = TIE if first == second else float(first > second)
        a, b = (Image(None, place=Place(record.number, k)) for k in (i, j))
        yield Comparison(prompt=None, a=a, b=b, label=label)


def check_shape(records: Iterator[Record], num_images: Sequence[int], name: str) -> None:
    """Count the records of the file `name`: a file of another shape would label the wrong images.

    Args:
        records: as of `records.all_records`.
        num_images: of each prompt of the data set.

    Raises ConfigError unless there is a record a prompt, and a number an image in each.
    """
    count = 0
    for count, record in enumerate(records, 1):
        if record.number != count:
            raise ConfigError(
                f"{name}: line {count} is empty, so later entries would label other prompts: remove it"
            )
        known = num_images[count - 1] if count <= len(num_images) else None
        if known is not None and isinstance(record.value, list) and len(record.value) != known:
            raise ConfigError(
                f"{name}:{count}: {len(record.value)} numbers, and the data set has {known} images of this prompt: "
                "import the file into the data set that it was made from"
            )
    if count != len(num_images):
        raise ConfigError(
            f"{name}: entries for {count} prompts, and the data set has {len(num_images)}: import the "
            "file into the data set that it was made from"
        )
