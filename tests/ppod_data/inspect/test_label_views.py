"""People's labels in the figures and on the page of a data set, by hand."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.html.charts.points import calibration_chart
from ppod_data.inspect.label_views import label_section
from ppod_data.inspect.overview import overview
from ppod_data.inspect.viewer import write_viewer
from ppod_data.labels.importing import import_labels
from tests.support.label_cases import sample_ids, write_lines
from tests.support.tables import add_scores
from tests.support.toy import make_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two people on samples 0, 1, 2: they agree on two of three pairs, one label is a tie; one repeats a pair."""
    made = make_dataset(tmp_path / "data")
    s = sample_ids(made)
    said = [(0, 1, "a", "u"), (0, 1, "a", "v"), (0, 2, "b", "u"), (0, 2, "b", "v"), (1, 2, "a", "u")]
    said += [(1, 2, "tie", "v"), (1, 0, "a", "u")]
    rows = [{"a": s[a], "b": s[b], "label": label, "annotator": who} for a, b, label, who in said]
    import_labels(made, write_lines(tmp_path / "l.jsonl", rows), format="table", name="people")
    add_scores(made, "r", [3, 1, 2, 0, 0, 0])
    return made


def test_agreement_ties_sides_and_rewards_by_hand(dataset: Dataset) -> None:
    figures = overview(dataset)
    json.dumps(figures, allow_nan=False)
    [found] = figures["labels"].values()
    assert found["rows"] == 7
    people, [reward] = found["dimensions"]["overall"]["people"], found["dimensions"]["overall"]["rewards"]
    assert people["raw"] == pytest.approx(2 / 3)
    # Of six answers three are for the earlier image, two for the later, one a tie: 22 of 30 pairs of them differ.
    assert people["krippendorff_alpha"] == pytest.approx(1 - (2 / 6) / (22 / 30))
    assert people["num_units_repeated"] == 3 and people["tie_rate"] == pytest.approx(1 / 7)
    assert people["self_agreement"] == 0.0, "u said 0 over 1, then 1 over 0"
    assert people["first_preferred"]["value"] == pytest.approx(4 / 6), (
        "of six preferences, four for the first"
    )
    assert (reward["reward"], reward["num_pairs"]) == ("r", 3)
    assert reward["accuracy"]["value"] == pytest.approx(1 / 3), "right on (0, 1), wrong on (0, 2) and (1, 2)"
    assert reward["kendall_tau"] == pytest.approx(-1 / 3)


def test_every_table_and_question_has_its_row(dataset: Dataset, tmp_path: Path) -> None:
    s = sample_ids(dataset)
    rows = [{"a": s[3], "b": s[4], "label": "a", "dimension": one} for one in ("colour", "<b>shape")]
    file = write_lines(tmp_path / "two.jsonl", rows)
    import_labels(dataset, file, format="table", name="two", dimension="colour")
    figures = overview(dataset)
    assert list(figures["labels"]) == ["people", "two"]
    assert list(figures["labels"]["two"]["dimensions"]) == ["<b>shape", "colour"]
    write_viewer(dataset, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<h3>People</h3>" in text and "two: colour" in text and "two: &lt;b&gt;shape" in text
    assert "67 % (30 … 90 %) of 6" in text, "the share of first images, with Wilson's interval"
    assert "calibration" not in text, "a reward that is mostly wrong has no temperature"


def test_without_labels_there_is_no_section(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    assert overview(dataset)["labels"] == {} and label_section({}) == ""
    write_viewer(dataset, tmp_path / "page.html")
    assert "<h3>People</h3>" not in (tmp_path / "page.html").read_text()


def test_labels_whose_shard_is_not_here_are_named_and_the_rest_is_shown(dataset: Dataset) -> None:
    (dataset.root / "samples" / "000000.parquet").unlink()
    found = overview(Dataset.open(dataset.root))["labels"]["people"]
    assert found["rows"] == 7 and "which is missing here: copy its shard" in found["problem"]
    assert "copy its shard" in label_section({"people": found})


def test_a_calibration_curve_is_drawn_where_its_points_are() -> None:
    bins = [{"predicted": 0.5, "observed": 0.0, "count": 3}, {"predicted": 1.0, "observed": 1.0, "count": 4}]
    reward = {"reward": "r", "num_pairs": 7, "temperature": 2.0, "calibration": bins}
    root = ElementTree.fromstring(calibration_chart(reward, title="r & people"))
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in root.iter("circle")]
    assert dots == [(44.0, 156.0), (348.0, 10.0)], "bottom left, top right"
    assert [title.text for title in root.iter("title")] == [
        "predicted 50 %, people 0 %: 3 pairs",
        "predicted 100 %, people 100 %: 4 pairs",
    ]
