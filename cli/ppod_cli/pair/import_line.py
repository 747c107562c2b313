"""The line `next: ppod-pair import …` after answers were collected."""

from pathlib import Path
from typing import TYPE_CHECKING

from ppod_cli.app.hints import next_line

if TYPE_CHECKING:
    from ppod_data import Dataset


def import_line(
    opened: "Dataset", folder: Path, name: str, *, format: str, dataset: str, is_new: bool
) -> str:
    """Return the line that imports the answers in `folder`; tables are never replaced, so new answers get a free name.

    Args:
        opened: the data set.
        folder: folder of the answers.
        name: name of the labels, of which later answers are NAME-2, NAME-3, ….
        format: format of the answers.
        dataset: the data set as the user named it.
        is_new: True if the command collected answers. Otherwise the last imported name is given, and an import of the
            same answers changes nothing.
    """
    labels = opened.label_names()
    taken = {*labels, *opened.pair_names()}
    names = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 2))]
    free = next(place for place, candidate in enumerate(names) if candidate not in taken)
    if not is_new and free > 0 and names[free - 1] in labels:
        free -= 1
    return next_line("ppod-pair", "import", dataset, folder, "--format", format, "--name", names[free])
