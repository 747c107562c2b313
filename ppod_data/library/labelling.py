"""`import_labels` and `agreement`: labels of people."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow.compute as pc

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.errors import ConfigError
from ppod_data.format.tables import check_name
from ppod_data.generation.generate import GenerateSummary
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.inspect.card import write_card
from ppod_data.labels.agreement import (
    LabelAgreement,
    PeopleAgreement,
    RewardAgreement,
    label_agreement,
    people_agreement,
    reward_agreement,
)
from ppod_data.labels.bradley_terry import PeopleScores, write_scores
from ppod_data.labels.foreign import build_dataset
from ppod_data.labels.importing import ImportSummary
from ppod_data.labels.importing import import_labels as import_file
from ppod_data.labels.matching import SampleIndex
from ppod_data.labels.settings import ImportOptions
from ppod_data.labels.stored import read_scores, read_votes, reward_names
from ppod_data.library.datasets import AnyDataset, new_root, open_dataset
from ppod_data.storage.files import AnyPath, data_path, local_path
from ppod_data.support.progress import SILENT, Progress


def check_labels_name(name: str) -> None:
    """Raise ConfigError for a name that no table of labels can have."""
    check_name(name, "a table of labels")


def known_dataset(path: AnyPath) -> Dataset:
    """Open the data set that labelled images are from.

    Raises:
        ConfigError: There is none.
    """
    if not data_path(path).exists():
        raise ConfigError(
            f"{path}: no such folder: name the data set that the images are from, or make one of the file's images "
            "with --model"
        )
    return Dataset.open(path)


def images_of_labels(
    path: AnyPath,
    file: AnyPath,
    model: DiffusionModel,
    settings: SamplingSettings,
    *,
    format: str,
    license: str = "unknown",
    skip_bad: bool = False,
    progress: Progress = SILENT,
) -> GenerateSummary:
    """Make a data set of the images in a label file, each with a chain that is drawn onto it.

    Args:
        path: Folder or URL of the data set, new or made of the same images.
        file: Local file or folder of labels.
        model: The model of the chains.
        settings: The chains. Other arguments and errors are those of `ppod_data.labels.foreign.build_dataset`.
    """
    return build_dataset(
        new_root(path),
        local_path(str(file)),
        model,
        format=format,
        license=license,
        skip_bad=skip_bad,
        progress=progress,
        settings=settings,
        guidance_scale=settings.guidance_scale,
    )


def import_labels(
    dataset: AnyDataset,
    file: AnyPath,
    *,
    format: str,
    name: str | None = None,
    options: ImportOptions | None = None,
    progress: Progress = SILENT,
) -> ImportSummary:
    """Import people's labels, and write `labels/NAME.parquet`, `pairs/NAME.parquet` and the card.

    >>> from ppod_data import import_labels
    >>> import_labels("data", "answers.csv", format="table", name="people").num_pairs
    2

    Args:
        dataset: The data set that the images are from, or its folder or URL.
        file: Local file or folder of labels.
        format: Format of the file, such as `pickapic`, `label-studio` or `table`, the plain one of docs/labels.md.
        name: Name of the labels and of their pairs; the format's unless given.
        options: Which labels count, and their licence.
        progress: Shows how many records were read.

    Raises:
        ConfigError: A row is no label, its images are not in the data set, or the name is taken. Nothing is written.
        DamagedError: A file cannot be read to its end.
    """
    table = check_name(format if name is None else name, "a table of labels")
    opened, path = open_dataset(dataset), local_path(str(file))
    done = import_file(
        opened, path, format=format, name=table, progress=progress, **asdict(options or ImportOptions())
    )
    write_card(opened.root)
    return done


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement between people, and between people and rewards, on one dimension of the labels."""

    dimension: str
    people: PeopleAgreement
    rewards: tuple[RewardAgreement, ...]
    others: tuple[LabelAgreement, ...]
    """Other tables of labels on the same dimension, such as a judge's, if they have a pair in common."""
    scores: PeopleScores | None
    """The score table that was written."""


def agreement(
    dataset: AnyDataset,
    labels: str,
    *,
    rewards: Sequence[str] | None = None,
    dimension: str | None = None,
    scores: str | None = None,
) -> Agreement:
    """Measure how far people agree, with each other, with each reward and with other tables of labels.

    >>> from ppod_data import agreement, import_labels
    >>> _ = import_labels("data", "answers.csv", format="table", name="people")
    >>> agreement("data", "people").people.num_labels
    2

    Args:
        dataset: A data set, or its folder or URL.
        labels: Name of the table of labels.
        rewards: Score tables to compare with; all but those of people unless given.
        dimension: Question that the labels answer; `overall`, or the only one, unless given.
        scores: Also write the people's Bradley-Terry scores to `scores/SCORES`, and the card.

    Raises:
        ConfigError: A table or dimension is unknown, or the name of the scores is taken.
    """
    opened = open_dataset(dataset)
    index = SampleIndex.read(opened)
    votes, annotators, chosen = read_votes(opened, labels, index, dimension)
    people = people_agreement(votes, annotators)
    compared = [
        reward_agreement(votes, read_scores(opened, name, index), name)
        for name in rewards or reward_names(opened)
    ]
    others = []
    for name in opened.label_names():
        dimensions = pc.unique(opened.labels(name, ["dimension"])["dimension"]).to_pylist()
        if name != labels and chosen in dimensions:
            other = label_agreement(votes, read_votes(opened, name, index, chosen)[0], name)
            others += [other] if other.num_pairs else []
    written = None
    if scores is not None:
        written = write_scores(opened, labels, name=scores, dimension=dimension)
        write_card(opened.root)
    return Agreement(
        dimension=chosen, people=people, rewards=tuple(compared), others=tuple(others), scores=written
    )
