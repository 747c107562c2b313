"""D3PO: a list with an entry a prompt, in the order in which they were sampled, each the list of its images' numbers.

The higher number is preferred, equal numbers are ties. The images are named by their place alone, so the file belongs
to the data set whose n-th prompt its n-th entry is, with as many images a prompt.
"""

from collections.abc import Iterator
from itertools import combinations

from ppod_data.labels.answers import TIE, Answer, BadRowError, Comparison, Image, Record, items, number


def place(prompt: int, k: int) -> str:
    """The key of an image that is named by its place: image k, from 0, of the n-th prompt, from 1."""
    return f"#{prompt}/{k}"


def parse(record: Record) -> Iterator[Answer]:
    values = [number(one, "a preference") for one in items(record.value, "the record")]
    if len(values) < 2:
        raise BadRowError(f"{len(values)} images of a prompt: nothing to compare")
    for (i, first), (j, second) in combinations(enumerate(values), 2):
        label = TIE if first == second else float(first > second)
        a, b = Image(place(record.number, i)), Image(place(record.number, j))
        yield Comparison(prompt=None, a=a, b=b, label=label)
