"""Exported images: the same pixels, labelled as generated, read by Pillow and by `datasets`."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.format.images import encode_png, pixels_sha256
from ppod_data.publish.export_images import GENERATED, export, folder_name, with_xmp, xmp_packet
from tests.support.tables import add_scores
from tests.support.toy import files, make_dataset, make_sample

PROMPT = 'a "cat" & <dog> 🐇'


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    dataset = make_dataset(tmp_path / "data", prompts=("a cat and a dog", PROMPT))
    add_scores(dataset, "a", [0, 1, 2, 3, 4, None])
    return dataset


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text("utf-8").splitlines()]


def description(path: Path) -> dict[str, Any]:
    """The XMP of a file as Pillow reads it."""
    found: dict[str, Any] = Image.open(path).getxmp()["xmpmeta"]["RDF"]["Description"]
    return found


@pytest.mark.parametrize("layout", ["prompt", "flat"])
def test_pixels_are_the_same_and_the_file_says_what_it_is(
    dataset: Dataset, tmp_path: Path, layout: str
) -> None:
    out = tmp_path / "out"
    assert export(dataset, out, layout=layout).num_images == 6
    rows = lines(out)
    assert {row["file_name"] for row in rows} == {str(path.relative_to(out)) for path in out.rglob("*.png")}
    for n, row in enumerate(rows):
        sample = make_sample(dataset.spec, n)
        path = out / row["file_name"]
        assert ("/" in row["file_name"]) == (layout == "prompt")
        assert pixels_sha256(Image.open(path)) == sample.image_pixels_sha256
        xmp = description(path)
        assert xmp["DigitalSourceType"] == GENERATED
        assert xmp["AIPromptInformation"] == sample.prompt == xmp["description"]["Alt"]["li"]["text"]
        assert (xmp["AISystemUsed"], xmp["AISystemVersionUsed"]) == ("scenes", "f" * 64)
        assert xmp["identifier"] == sample.sample_id == row["sample_id"]
        assert (row["prompt"], row["score_a"]) == (sample.prompt, None if n == 5 else n)


@pytest.mark.parametrize("layout", ["prompt", "flat"])
def test_datasets_reads_the_folder(dataset: Dataset, tmp_path: Path, layout: str) -> None:
    from datasets import load_dataset

    export(dataset, tmp_path / "out", layout=layout)
    rows = load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )
    by_id = {row["sample_id"]: row for row in rows}
    for n in range(6):
        sample = make_sample(dataset.spec, n)
        row = by_id[sample.sample_id]
        assert pixels_sha256(row["image"]) == sample.image_pixels_sha256
        assert row["prompt"] == sample.prompt


def test_an_interrupted_export_goes_on(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(dataset, out)
    whole = files(out)
    (out / "metadata.jsonl").unlink()
    for path in sorted(out.rglob("*.png"))[:2]:
        path.unlink()
    done = export(dataset, out)
    assert (done.num_images, done.num_skipped) == (6, 4)
    assert files(out) == whole


def test_other_folders_are_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    with pytest.raises(ConfigError, match="the folder holds other files"):
        export(dataset, tmp_path / "mine")
    with pytest.raises(ConfigError, match="a file of this name exists"):
        export(dataset, tmp_path / "mine" / "letter.txt")
    export(dataset, tmp_path / "out")
    with pytest.raises(ConfigError, match="another data set or layout"):
        export(dataset, tmp_path / "out", layout="flat")
    assert sorted(files(tmp_path / "mine")) == ["letter.txt"]


@given(st.text(max_size=40))
def test_any_text_gives_whole_xml(text: str) -> None:
    """What XML cannot hold is replaced; all else comes back as it was."""
    row = {"prompt": text, "sample_id": "0" * 32}
    png = with_xmp(encode_png(Image.new("RGB", (2, 1))), xmp_packet(row, "m", "r"))
    image = Image.open(io.BytesIO(png))
    image.load()
    found = image.getxmp()["xmpmeta"]["RDF"]["Description"]["AISystemUsed"]
    assert found == "m"


def test_folder_names_are_plain_and_distinct() -> None:
    assert folder_name("A green/colored ..\\ rabbit", "abcdef0123") == "a-green-colored-rabbit-abcdef01"
    assert folder_name("🐇", "abcdef0123") == "abcdef01"
    assert len(folder_name("word " * 100, "abcdef0123")) <= 57


def test_no_png_is_not_labelled() -> None:
    with pytest.raises(ValueError, match="not a PNG"):
        with_xmp(b"GIF89a" + bytes(40), "x")
