"""Settings of an import of labels, declared once for Python, the command line and configuration files."""

from dataclasses import dataclass

from ppod_data.support.options import option


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Which labels of a file count, and their licence.

    >>> from ppod_data import ImportOptions, import_labels
    >>> import_labels("data", "answers.csv", format="table", options=ImportOptions(keep_ties=True)).num_ties
    0
    """

    license: str = option(
        "unknown",
        "SPDX identifier of the labels' licence, if the file names none; with --model of DATASET's too.",
        metavar="SPDX",
    )
    dimension: str | None = option(
        None,
        "Labels on this question, if the file has several.",
        metavar="NAME",
        shown_default="overall, or the only one",
    )
    keep_ties: bool = option(
        False, "Ties enter the pairs as labels of 0.5; otherwise they are in no pair.", flag="--keep-ties"
    )
    skip_bad: bool = option(
        False, "Write rows that cannot be labels to a file of rejects, and continue.", flag="--skip-bad"
    )
