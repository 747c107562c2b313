"""People's labels are as trustworthy as every other table: verified, sealed, and taken down with their samples."""

import json
import subprocess
from pathlib import Path

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.exclusions import exclude
from ppod_data.integrity.purge import purge
from ppod_data.integrity.seal import seal
from ppod_data.integrity.verify import DAMAGED, verify
from ppod_data.labels.agreement import people_agreement
from ppod_data.labels.bradley_terry import write_scores
from ppod_data.labels.importing import import_labels
from ppod_data.labels.matching import SampleIndex
from ppod_data.labels.stored import read_votes
from tests.support.toy import flip, make_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A data set of two prompts with three images each; all pairs of a prompt are labelled."""
    made = make_dataset(tmp_path / "data")
    rows = []
    for prompt_id, prompt in zip(made.spec.prompt_ids, made.spec.prompts, strict=True):
        a, b, c = (made.spec.sample_id(prompt_id, k) for k in range(3))
        rows += [
            {"prompt": prompt, "a": one, "b": two, "label": "a", "annotator": "x"}
            for one, two in ((a, b), (b, c), (a, c))
        ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_labels(made, tmp_path / "labels.jsonl", format="table", name="people")
    write_scores(made, "people", name="people-bt")
    return Dataset.open(made.root)


def test_every_table_of_people_has_its_seal(dataset: Dataset) -> None:
    for folder, sums in (
        ("labels", "people.sha256"),
        ("pairs", "people.sha256"),
        ("scores/people-bt", "SHA256SUMS"),
    ):
        checked = subprocess.run(["sha256sum", "-c", sums], cwd=dataset.root / folder, capture_output=True)
        assert checked.returncode == 0, checked.stdout
    assert verify(dataset.root, read_data=1).findings == []
    assert "labels/people" in verify(dataset.root).tables


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_flipped_bit_of_a_label_is_found_and_named(dataset: Dataset, share: float) -> None:
    path = dataset.root / "labels" / "people.parquet"
    flip(path, int(share * path.stat().st_size))
    found = verify(dataset.root, read_data=1).of(DAMAGED)
    assert {finding.file for finding in found} == {"labels/people.parquet"}


def test_labels_on_a_sample_that_was_taken_down_are_not_read(dataset: Dataset) -> None:
    gone = dataset.spec.sample_id(dataset.spec.prompt_ids[0], 1)
    exclude(dataset.root, dataset.spec, [gone], [], "asked for")
    again = Dataset.open(dataset.root)
    assert again.labels("people", ["label"]).num_rows == 4
    votes, annotators, _ = read_votes(again, "people", SampleIndex.read(again), None)
    assert people_agreement(votes, annotators).num_labels == 4


def test_a_purge_takes_them_out_of_the_file(dataset: Dataset) -> None:
    seal(dataset.root)
    gone = dataset.spec.sample_id(dataset.spec.prompt_ids[0], 1)
    exclude(dataset.root, dataset.spec, [gone], [], "asked for")
    purge(Dataset.open(dataset.root))
    (dataset.root / "exclusions.jsonl").rename(dataset.root.parent / "list")  # now nothing is filtered
    names = Dataset.open(dataset.root).labels("people", ["a_id", "b_id"]).to_pylist()
    assert len(names) == 4 and gone not in {one for row in names for one in row.values()}
    (dataset.root.parent / "list").rename(dataset.root / "exclusions.jsonl")
    assert verify(dataset.root, read_data=1).findings == []
