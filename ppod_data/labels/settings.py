"""Settings of labels and of combined pairs, declared once for Python, the command line and configuration files."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ppod_data.support.options import option

LabelFormat: TypeAlias = Literal[
    "pickapic",
    "hpdv2",
    "hpdv3",
    "imagerewarddb",
    "open-image-preferences",
    "rapidata",
    "richhf",
    "d3po",
    "folders",
    "label-studio",
    "argilla",
    "ppod-label",
    "ppod-judge",
    "table",
]
"""Formats of label files that an import reads."""


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


@dataclass(frozen=True, kw_only=True)
class CombineSettings:
    """How tables of pairs become one.

    >>> CombineSettings(label_smoothing=0.1).seed
    0
    """

    label_smoothing: float = option(0.0, "S makes (1 - S) p + S / 2 of a label p.", metavar="S", min=0.0)
    drop_contradictory: bool = option(
        False,
        "Leave out pairs that are judged either way, instead of their mean.",
        flag="--drop-contradictory",
    )
    validation_share: float | None = option(
        None,
        "Write NAME-train and NAME-validation, this share of the prompts in the second.",
        metavar="X",
        shown_default="one table",
    )
    seed: int = option(0, "Seed of the split by prompt.", metavar="SEED", min=0)
