"""What the real Label Studio exported: `make label-studio` makes label_studio_export.json anew."""

from pathlib import Path

from ppod_data.labels.importing import import_labels
from tests.support.label_studio import PAIRS
from tests.support.toy import make_dataset, make_sample

EXPORT = Path(__file__).parents[2] / "fixtures" / "label_studio_export.json"


def test_answers_given_in_label_studio_become_labels(tmp_path: Path) -> None:
    """The first task was answered left, the second right, the third a tie; one more answer was cancelled."""
    dataset = make_dataset(tmp_path / "data")
    done = import_labels(dataset, EXPORT, format="label-studio", name="studio")
    assert (done.num_records, done.num_preferences, done.num_ties, done.num_rejected) == (3, 2, 1, 0)
    assert done.skipped == {"cancelled": 1}
    asked = [{make_sample(dataset.spec, n).sample_id for n in pair} for pair in PAIRS]
    labels = dataset.labels("studio").to_pylist()
    assert [{row["a_id"], row["b_id"]} for row in labels] == asked
    assert [row["label"] for row in labels] == [1.0, 0.0, 0.5]
    assert len({row["annotator"] for row in labels}) == 1 and len(labels[0]["annotator"]) == 16
    pairs = dataset.pairs("studio").to_pylist()
    assert {row["chosen_id"] for row in pairs} == {labels[0]["a_id"], labels[1]["b_id"]}
