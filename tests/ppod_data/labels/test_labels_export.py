"""Exports, each read back by the loader or the schema of its target."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import webdataset
from datasets import load_dataset

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.format.images import decode_image, pixels_sha256
from ppod_data.labels.export.export import export_pairs
from ppod_data.labels.importing import import_labels
from tests.support.label_cases import prompts, sample_ids, write_lines
from tests.support.toy import files, make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four pairs: hard, soft, a tie, and one of the second prompt."""
    folder = tmp_path_factory.mktemp("export")
    made = make_dataset(folder / "data")
    s = sample_ids(made)
    rows = [
        {"a": s[0], "b": s[1], "label": "b"},
        {"a": s[0], "b": s[2], "label": 0.75, "votes": 4},
        {"a": s[1], "b": s[2], "label": "tie"},
        {"a": s[3], "b": s[5], "label": "a"},
    ]
    import_labels(made, write_lines(folder / "l.jsonl", rows), format="table", name="n", keep_ties=True)
    return made


@pytest.fixture
def pixels(dataset: Dataset) -> dict[str, str]:
    """The hash of every sample's pixels."""
    rows = dataset.samples(["sample_id", "image_pixels_sha256"]).to_pylist()
    return {row["sample_id"]: row["image_pixels_sha256"] for row in rows}


def expected(dataset: Dataset) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = dataset.pairs("n").to_pylist()
    assert [row["label"] for row in rows] == [1.0, 0.75, 0.5, 1.0]
    return rows


def test_pick_a_pic_as_its_readers_read_it(dataset: Dataset, tmp_path: Path, pixels: dict[str, str]) -> None:
    out = tmp_path / "p.parquet"
    done = export_pairs(dataset, name="n", format="pickapic", out=out)
    assert (done.num_pairs, done.num_images, done.num_hardened) == (4, 5, 1)
    loaded = load_dataset("parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    kinds = {name: str(loaded.features[name].dtype) for name in loaded.column_names}
    assert kinds["jpg_0"] == kinds["jpg_1"] == "binary" and kinds["label_0"] == kinds["label_1"] == "float64"
    assert kinds["created_at"] == "timestamp[ns]" and len(kinds) == 19
    for row, pair in zip(loaded, expected(dataset), strict=True):
        assert row["has_label"] and row["caption"] in prompts(dataset)
        assert row["label_0"] + row["label_1"] == 1.0
        for side in "01":
            assert pixels_sha256(decode_image(row[f"jpg_{side}"])) == pixels[row[f"image_{side}_uid"]]
        if pair["label"] == 0.5:
            assert row["label_0"] == 0.5
            continue
        # Diffusion-DPO's scripts take jpg_0 for the winner where label_0 is true.
        winner = row["image_0_uid"] if row["label_0"] else row["image_1_uid"]
        assert winner == pair["chosen_id"] == row["best_image_uid"]
    import_labels(dataset, out, format="pickapic", name="again", keep_ties=True)
    again = dataset.pairs("again").to_pylist()
    sides = ("chosen_id", "rejected_id")
    assert [[row[side] for side in sides] for row in again] == [
        [row[side] for side in sides] for row in expected(dataset)
    ]
    for folder in ("labels", "pairs"):
        (dataset.root / folder / "again.parquet").unlink()


def test_trl_has_images_that_datasets_decodes(
    dataset: Dataset, tmp_path: Path, pixels: dict[str, str]
) -> None:
    out = tmp_path / "t.parquet"
    export_pairs(dataset, name="n", format="trl", out=out)
    loaded = load_dataset("parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["prompt", "chosen", "rejected", "label"]
    for row, pair in zip(loaded, expected(dataset), strict=True):
        assert pixels_sha256(row["chosen"]) == pixels[pair["chosen_id"]]
        assert pixels_sha256(row["rejected"]) == pixels[pair["rejected_id"]]
        assert row["label"] == pair["label"]


def test_webdataset_decodes_both_images(dataset: Dataset, tmp_path: Path, pixels: dict[str, str]) -> None:
    out = tmp_path / "tars"
    export_pairs(dataset, name="n", format="webdataset", out=out)
    assert list(files(out)) == ["pairs-000000.tar"]
    tar = str(out / "pairs-000000.tar")
    read = list(webdataset.WebDataset(tar, shardshuffle=False).decode("pil"))
    for sample, pair in zip(read, expected(dataset), strict=True):
        assert sample["__key__"] == pair["pair_id"]
        assert pixels_sha256(sample["chosen.png"]) == pixels[pair["chosen_id"]]
        assert pixels_sha256(sample["rejected.png"]) == pixels[pair["rejected_id"]]
        assert sample["json"]["label"] == pair["label"] and sample["json"]["prompt"] in prompts(dataset)
    loaded = load_dataset("webdataset", data_files=tar, split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["__key__"] for row in loaded] == [pair["pair_id"] for pair in expected(dataset)]
    export_pairs(dataset, name="n", format="webdataset", out=tmp_path / "again")
    assert files(out) == files(tmp_path / "again")


def test_flow_factory_s_manifest_names_images_beside_it(
    dataset: Dataset, tmp_path: Path, pixels: dict[str, str]
) -> None:
    """The schema of its version 2: schema_version, input, supervision and metadata, and nothing else."""
    out = tmp_path / "ff"
    export_pairs(dataset, name="n", format="flow-factory", out=out)
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text("utf-8").splitlines()]
    for row, pair in zip(rows, expected(dataset), strict=True):
        assert row.keys() == {"schema_version", "input", "supervision", "metadata"}
        assert row["schema_version"] == 2 and row["input"].keys() == {"prompt", "media"}
        assert row["supervision"].keys() == {"type", "chosen", "rejected"}
        assert row["supervision"]["type"] == "preference"
        for side in ("chosen", "rejected"):
            [media] = row["supervision"][side]["media"]
            assert media.keys() == {"type", "path"} and media["type"] == "image"
            image = decode_image((out / media["path"]).read_bytes())
            assert pixels_sha256(image) == pixels[pair[f"{side}_id"]]


def test_csv_can_be_imported_again(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "c.csv"
    export_pairs(dataset, name="n", format="csv", out=out)
    with out.open(encoding="utf-8", newline="") as file:
        assert [row["prompt"] for row in csv.DictReader(file)] == [prompts(dataset)[0]] * 3 + [
            prompts(dataset)[1]
        ]
    import_labels(dataset, out, format="table", name="c", keep_ties=True)
    columns = ["chosen_id", "rejected_id", "label", "votes"]
    assert dataset.pairs("c").select(columns) == dataset.pairs("n").select(columns)
    for folder in ("labels", "pairs"):
        (dataset.root / folder / "c.parquet").unlink()


def test_label_studio_s_answers_come_back(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "ls"
    export_pairs(dataset, name="n", format="label-studio", out=out)
    assert 'toName="a,b"' in (out / "config.xml").read_text()
    tasks = json.loads((out / "tasks.json").read_text("utf-8"))
    for task in tasks:
        assert "label" not in task["data"] and "chosen" not in json.dumps(task)
        path = task["data"]["image_a"].removeprefix("/data/local-files/?d=")
        assert (out / path).is_file() and task["data"]["a_id"] in path
    result = {"type": "pairwise", "from_name": "preferred", "to_name": "a", "value": {"selected": "right"}}
    answers = [task | {"annotations": [{"result": [result], "completed_by": 1}]} for task in tasks]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(answers))
    import_labels(dataset, path, format="label-studio", name="ls")
    chosen = set(dataset.pairs("ls")["chosen_id"].to_pylist())
    assert chosen == {task["data"]["b_id"] for task in tasks}
    for folder in ("labels", "pairs"):
        (dataset.root / folder / "ls.parquet").unlink()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "other"}, "format 'other' is unknown: choose one of pickapic"),
        ({"name": "no"}, "no pairs named 'no': give n"),
        ({"out": "there"}, "exists: give another --out"),
    ],
)
def test_nothing_is_replaced(dataset: Dataset, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    (tmp_path / "there").write_text("mine")
    options = {"name": "n", "format": "csv", "out": "new"} | options
    with pytest.raises(ConfigError, match=message):
        export_pairs(dataset, **options | {"out": tmp_path / options["out"]})
    assert files(tmp_path) == {"there": b"mine"}


def test_pairs_of_an_empty_table_are_an_empty_file(dataset: Dataset, tmp_path: Path) -> None:
    from ppod_data.format.tables import PAIRS, write_table

    write_table(dataset.root / "pairs" / "none.parquet", PAIRS.empty_table())
    for format, out in (("csv", "c.csv"), ("label-studio", "ls"), ("trl", "t.parquet")):
        assert export_pairs(dataset, name="none", format=format, out=tmp_path / out).num_pairs == 0
    assert json.loads((tmp_path / "ls" / "tasks.json").read_text()) == []
    assert pa.parquet.read_table(tmp_path / "t.parquet").num_rows == 0
    (dataset.root / "pairs" / "none.parquet").unlink()
