"""ppod-data info, card, export, merge, push and pull, as users run them."""

import json
from pathlib import Path

import pytest
from ppod_cli import data as data_command

from ppod_data.dataset.dataset import Dataset
from tests.support.command import call
from tests.support.tables import add_pairs, add_scores
from tests.support.toy import files, flip, make_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    dataset = make_dataset(tmp_path / "data")
    add_scores(dataset, "a", [0, 1, 2, 3, 4, None])
    add_scores(dataset, "b", [1, 0, 2, 3, 4, 5])
    add_pairs(dataset, "people", [(1, 0), (4, 3)])
    return dataset


def test_info_says_how_scores_are_spread_and_agree(dataset: Dataset) -> None:
    shown = call(data_command.app, "info", dataset.root).stdout
    assert "  scores a: 6 by a 1, 1 failed\n    mean 2.00, median 2.00\n" in shown
    assert "    0.00 |█" in shown and "█| 4.00" in shown
    assert "  a and b: 75% agree of 4 comparisons, rank correlation 0.90" in shown
    assert "  pairs people: 2 by reward:a; agree: a 100%, b 50%" in shown


def test_info_as_json_has_the_histograms(dataset: Dataset, tmp_path: Path) -> None:
    done = call(data_command.app, "info", dataset.root, "--json", "--html", tmp_path / "page.html")
    figures = json.loads(done.stdout)
    assert sum(figures["scores"]["a"]["histogram"]["counts"]) == 5
    assert figures["agreement"][0]["same_order"] == 0.75
    assert Path(figures["html"]).read_text("utf-8").startswith("<!doctype html>")


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", model="\x1b[31mred")
    assert "\x1b" not in call(data_command.app, "info", dataset.root).stdout


def test_the_page_is_bounded(dataset: Dataset, tmp_path: Path) -> None:
    done = call(data_command.app, "info", dataset.root, "--html", tmp_path / "page.html", "--max-images", 2)
    assert done.stdout.splitlines()[-1].startswith(f"page: {tmp_path / 'page.html'} (")
    assert (tmp_path / "page.html").read_text("utf-8").count("data:image/") == 2


def test_card(dataset: Dataset) -> None:
    done = call(data_command.app, "card", dataset.root)
    assert done.stdout == f"{dataset.root}/README.md, {dataset.root}/croissant.json\n"
    assert "config_name: pairs-people" in (dataset.root / "README.md").read_text("utf-8")
    assert json.loads((dataset.root / "croissant.json").read_text())["recordSet"][0]["@id"] == "samples"


def test_export_twice(dataset: Dataset, tmp_path: Path) -> None:
    arguments = ("export", dataset.root, "--out", tmp_path / "images")
    assert call(data_command.app, *arguments).stdout == f"{tmp_path / 'images'}: 6 images\n"
    assert "6 images, 6 already there" in call(data_command.app, *arguments).stdout
    error = call(data_command.app, *arguments, "--layout", "flat").one_error()
    assert "another data set or layout: give a new folder" in error


def test_push_and_pull(dataset: Dataset, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    assert "files copied" in call(data_command.app, "push", dataset.root, url).stdout
    done = json.loads(call(data_command.app, "pull", url, tmp_path / "back", "--json").stdout)
    assert done["num_copied"] == done["num_files"] == len(files(dataset.root))
    assert files(tmp_path / "back") == files(dataset.root)
    assert "0 files copied" in call(data_command.app, "push", dataset.root, url).stdout


def test_errors_of_push_and_pull_are_one_line(dataset: Dataset, tmp_path: Path) -> None:
    bad = call(data_command.app, "push", dataset.root, "hf://datasets/name")
    assert (bad.code, "hf://datasets/OWNER/NAME" in bad.one_error()) == (2, True)
    assert "check the URL" in call(data_command.app, "pull", f"file://{tmp_path}/no", "back").one_error()
    call(data_command.app, "push", dataset.root, f"file://{tmp_path}/store")
    flip(sorted((tmp_path / "store" / "trajectories").iterdir())[0], 5000)
    damaged = call(data_command.app, "pull", f"file://{tmp_path}/store", tmp_path / "back")
    assert (damaged.code, "get this file again" in damaged.one_error()) == (3, True)


def test_merge(dataset: Dataset, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", seed=1)
    done = call(data_command.app, "merge", tmp_path / "both.json", dataset.root, other.root)
    assert done.stdout.splitlines()[0] == f"{tmp_path / 'both.json'}: 2 data sets, 12 images"
    strange = make_dataset(tmp_path / "strange", ddim_eta=0.5)
    refused = call(data_command.app, "merge", tmp_path / "x.json", dataset.root, strange.root)
    assert (refused.code, "ddim_eta 0.5" in refused.one_error()) == (2, True)
