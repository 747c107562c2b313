"""Label files as spreadsheets, other tools and accidents leave them: read, or refused with the reason."""

import hashlib
import hmac
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.labels.files.records import label_files, read_records
from ppod_data.labels.importing import ImportSummary, import_labels
from tests.support.label_cases import prompts, sample_ids
from tests.support.progress import Watch
from tests.support.toy import make_dataset

ROWS = 20
_LONG = "x" * 200_000


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("labels") / "data"
    return make_dataset(root, num_images_per_prompt=8, images_per_shard=8)


@pytest.fixture
def fresh(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "data")


def pairs(dataset: Dataset) -> list[tuple[str, str]]:
    return list(itertools.combinations(sample_ids(dataset)[:8], 2))[:ROWS]


def run(dataset: Dataset, path: Path, format: str = "table", **options: Any) -> ImportSummary:
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return import_labels(dataset, path, format=format, name=name, **options)


def csv_of(dataset: Dataset, change: dict[int, str], end: str = "\n") -> str:
    """A file of ROWS rows, of which some are written otherwise: {a}, {b}, {w} stand for the cells."""
    lines = ["a,b,label,annotator"]
    for row, (a, b) in enumerate(pairs(dataset)):
        lines.append(change.get(row, "{a},{b},a,{w}").format(a=a, b=b, w=f"w{row}"))
    return end.join(lines) + end


STRAY = {
    "clean": ({}, 0),
    "one quotation mark in the last column": ({4: '{a},{b},a,"joe'}, 1),
    "opened in one row and closed in another": ({4: '{a},{b},a,"joe', 14: '{a},{b},a,mary"'}, 2),
    "opened and closed in neighbours": ({4: '{a},{b},a,"joe', 5: '{a},{b},a,mary"'}, 2),
    "one quotation mark in the first column": ({4: '"{a},{b},a,{w}'}, 1),
    "opened in the first column, closed later": ({4: '"{a},{b},a,{w}', 9: '{a}",{b},a,{w}'}, 2),
    "opened in the first column, closed in the next row": ({4: '"{a},{b},a,{w}', 5: '{a}",{b},a,{w}'}, 2),
    "a quotation mark in a middle column": ({4: '{a},"{b},a,{w}'}, 1),
    "text after a closing mark": ({4: '{a},{b},a,"joe" x'}, 1),
    "in the last row": ({19: '{a},{b},a,"joe'}, 1),
    "two of them": ({4: '{a},{b},a,"joe', 8: '"{a},{b},a,{w}', 15: '{a},{b},a,"x'}, 3),
    "a zero byte": ({4: "{a},{b},a,{w}\0"}, 1),
    "a field of 200 kB": ({4: "{a},{b},a," + _LONG}, 1),
    "a field of 200 kB after a stray mark": ({4: '{a},{b},a,"' + _LONG}, 1),
    "a short and a long row": ({4: "{a},{b}", 9: "{a},{b},a,{w},more"}, 2),
    "separators at the end of lines": ({4: "{a},{b},a,{w},,", 9: "{a},{b},a,{w},"}, 0),
    "a name of two lines": ({4: '{a},{b},a,"joe\nsmith"'}, 0),
    "no label": ({4: "{a},{b},,{w}"}, 1),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("name", STRAY)
def test_every_row_of_a_csv_is_a_label_or_a_reject(
    dataset: Dataset, tmp_path: Path, name: str, end: str
) -> None:
    change, rejected = STRAY[name]
    path = tmp_path / "l.csv"
    path.write_bytes(csv_of(dataset, change, end).encode())
    done = run(dataset, path, skip_bad=True)
    assert (done.num_preferences, done.num_rejected) == (ROWS - rejected, rejected)
    assert done.num_records == ROWS


def test_a_csv_with_a_stray_mark_is_refused_by_its_row(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text(csv_of(dataset, {4: '{a},{b},a,"joe'}))
    with pytest.raises(ConfigError, match=r"l\.csv:5: a quotation mark .* is not closed in its line"):
        run(dataset, path)


def test_hidden_files_and_files_in_hidden_folders_are_no_labels(dataset: Dataset, tmp_path: Path) -> None:
    """Jupyter keeps an older copy of an edited file in .ipynb_checkpoints, and macOS writes ._NAME beside NAME."""
    folder = tmp_path / ".hidden" / "votes"
    for name in (
        "more/b.csv",
        "a.csv",
        ".ipynb_checkpoints/a-checkpoint.csv",
        "more/.old/kept/c.csv",
        "._a.csv",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(csv_of(dataset, {}).replace(",w", f",{name[0]}"))
    assert label_files(folder) == [folder / "a.csv", folder / "more" / "b.csv"]
    done = run(dataset, folder)
    assert (done.num_records, done.num_preferences) == (2 * ROWS, 2 * ROWS)
    shutil.rmtree(folder / "more")
    (folder / "a.csv").unlink()
    with pytest.raises(ConfigError, match="no file of labels in this folder"):
        run(dataset, folder)


def test_empty_rows_are_counted_and_blank_lines_are_none(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text(csv_of(dataset, {}) + "\n\n,,,\n  \n,,,\n")
    done = run(dataset, path)
    assert done.num_preferences == ROWS and done.skipped == {"empty rows": 3}


def test_texts_of_several_lines_with_the_separators_of_a_prompt_are_read(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text('prompt,a,b,label\n"a cat,\nsitting",x,y,a\nz,x,y,b\n')
    rows = [item.value for item in read_records(path) if not isinstance(item, tuple)]
    assert [row["prompt"] for row in rows] == ["a cat,\nsitting", "z"]


SPREADSHEETS = {
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "a header in capitals": lambda text: text.replace("a,b,label", "A, B ,Label", 1).encode(),
    "Excel's first line": lambda text: b"sep=;\r\n" + text.replace(",", ";").encode(),
    "a separator at the end": lambda text: text.replace("\n", ",\n").encode(),
}


@pytest.mark.parametrize("name", SPREADSHEETS)
def test_what_spreadsheets_write_is_read(dataset: Dataset, tmp_path: Path, name: str) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes(SPREADSHEETS[name](csv_of(dataset, {})))
    assert run(dataset, path).num_preferences == ROWS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"first;second;label\nx;y;a\n", r"columns: first, second, label; separated by semicolons"),
        ("a,b\nx,y\n".encode("utf-16"), r"label is missing .*columns: a, b; encoding UTF-16"),
        (b"A,B,Label\nx,y,a\n", r"columns: a, b, label"),
    ],
)
def test_an_error_says_which_header_was_read(
    dataset: Dataset, tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        run(dataset, path)


@pytest.mark.parametrize("name", ["l.json", "l.jsonl"])
def test_json_of_another_encoding_is_refused_by_its_name(dataset: Dataset, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes("[{}]".encode("utf-16"))
    with pytest.raises(DamagedError, match="written as UTF-16: save it as UTF-8"):
        run(dataset, path)


def numbers(dataset: Dataset, *, prompts: int = 2, images: int = 8) -> list[list[int]]:
    return [list(range(images)) for _ in range(prompts)]


def test_images_named_by_position_need_a_file_of_the_same_shape(dataset: Dataset, tmp_path: Path) -> None:
    count = len(prompts(dataset))
    good = [list(range(8))] * count
    wrong = {
        "seven": ([list(range(7))] * count, r"seven\.json:1: 7 numbers, and the data set has 8 images"),
        "nine": ([*good[:-1], list(range(9))], rf"nine\.json:{count}: 9 numbers, .* has 8 images"),
        "few": (good[:-1], rf"few\.json: entries for {count - 1} prompts, and the data set has {count}"),
        "many": (
            [*good, good[0]],
            rf"many\.json: entries for {count + 1} prompts, and the data set has {count}",
        ),
    }
    for name, (entries, message) in wrong.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(entries))
        for skip_bad in (False, True):
            with pytest.raises(ConfigError, match=message):
                run(dataset, path, "d3po", skip_bad=skip_bad)
    blank = tmp_path / "blank.jsonl"
    blank.write_text("\n".join(["[0,1,2,3,4,5,6,7]", "", *["[0,1,2,3,4,5,6,7]"] * (count - 1)]))
    with pytest.raises(ConfigError, match="line 2 is empty"):
        run(dataset, blank, "d3po")
    (tmp_path / "good.json").write_text(json.dumps(good))
    assert run(dataset, tmp_path / "good.json", "d3po").num_preferences == 28 * count


def test_a_position_is_no_name_of_an_image_in_other_formats(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("a,b,label\n#1/0,#1/1,a\n")
    with pytest.raises(ConfigError, match="none of the images is a sample"):
        run(dataset, path)


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/3/1a2b3c4d-{}.png",
        "1a2b3c4d-{}.png",
        "https://example.org/images/{}.png?X-Amz-Credential=a/b&X-Amz-Date=c",
        "/data/local-files/?d=images%2F{}.png",
        "images\\{}.png",
    ],
)
def test_names_that_other_tools_give_to_a_sample_are_known(
    dataset: Dataset, tmp_path: Path, address: str
) -> None:
    a, b = sample_ids(dataset)[:2]
    result = {"type": "pairwise", "from_name": "pw", "to_name": "pw", "value": {"selected": "left"}}
    data = {"image1": address.format(a), "image2": address.format(b), "prompt": prompts(dataset)[0]}
    path = tmp_path / "e.json"
    path.write_text(json.dumps([{"data": data, "annotations": [{"result": [result]}]}]))
    assert run(dataset, path, "label-studio").num_preferences == 1
    assert dataset.labels(hashlib.sha256(str(path).encode()).hexdigest()[:16])["a_id"].to_pylist() == [a]


def image_files(dataset: Dataset, folder: Path) -> list[Path]:
    folder.mkdir()
    rows = dataset.samples(["image"])["image"].to_pylist()[:2]
    for number, row in enumerate(rows):
        (folder / f"{number}.png").write_bytes(row["bytes"])
    return sorted(folder.iterdir())


@pytest.mark.parametrize("of", ["folder", "file"])
def test_images_are_reached_through_links_in_the_folder(dataset: Dataset, tmp_path: Path, of: str) -> None:
    images = image_files(dataset, tmp_path / "elsewhere")
    labels = tmp_path / "labels"
    labels.mkdir()
    if of == "folder":
        (labels / "images").symlink_to(tmp_path / "elsewhere")
    else:
        (labels / "images").mkdir()
        for image in images:
            (labels / "images" / image.name).symlink_to(image)
    (labels / "l.csv").write_text("a,b,label\nimages/0.png,images/1.png,a\n")
    assert run(dataset, labels / "l.csv").num_preferences == 1


@pytest.mark.parametrize("key", ["../elsewhere/0.png", "images/../../elsewhere/0.png", "{absolute}"])
def test_a_name_that_leads_out_of_the_folder_is_not_opened(
    dataset: Dataset, tmp_path: Path, key: str
) -> None:
    images = image_files(dataset, tmp_path / "elsewhere")
    (tmp_path / "labels").mkdir()
    path = tmp_path / "labels" / "l.csv"
    path.write_text(f"a,b,label\n{key.format(absolute=images[0])},{sample_ids(dataset)[1]},a\n")
    with pytest.raises(ConfigError, match="none of the images is a sample"):
        run(dataset, path)


def test_an_image_that_cannot_be_read_is_rejected_with_its_name_and_the_reason(
    dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "cut.png").write_bytes(dataset.samples(["image"])["image"][0].as_py()["bytes"][:60])
    path = tmp_path / "l.csv"
    path.write_text(f"a,b,label\ncut.png,{sample_ids(dataset)[1]},a\n")
    with pytest.raises(ConfigError, match=r"l\.csv:1: cut\.png: cannot decode this image \(.+\)"):
        run(dataset, path)


def test_the_test_file_of_image_reward_is_read(dataset: Dataset, tmp_path: Path) -> None:
    s = sample_ids(dataset)[:3]
    row = {"id": "1-2", "prompt": prompts(dataset)[0], "generations": [f"{one}.webp" for one in s]}
    path = tmp_path / "test.json"
    path.write_text(json.dumps([row | {"ranking": [1, 3, 2]}]))
    assert run(dataset, path, "imagerewarddb").num_preferences == 3
    rows = dataset.labels(hashlib.sha256(str(path).encode()).hexdigest()[:16]).to_pylist()
    assert {(one["a_id"], one["b_id"]): one["label"] for one in rows} == {
        (s[0], s[1]): 1.0,
        (s[0], s[2]): 1.0,
        (s[1], s[2]): 0.0,
    }


def labels_of(dataset: Dataset, folder: Path, name: str, label: str = "a") -> Path:
    a, b = sample_ids(dataset)[:2]
    path = folder / f"{name}.csv"
    path.write_text(f"a,b,label,annotator\n{a},{b},{label},anna@example.org\n")
    return path


@pytest.mark.parametrize("data", [b"", b"zz", b"5A" * 32, b"5a" * 40, b"5a" * 5000, None])
def test_a_salt_that_ppod_did_not_write_is_refused(
    fresh: Dataset, tmp_path: Path, data: bytes | None
) -> None:
    salt = Path(str(fresh.root)) / "labels" / ".salt"
    salt.parent.mkdir()
    if data is None:
        os.mkfifo(salt)
    else:
        salt.write_bytes(data)
    with pytest.raises(ConfigError, match=r"\.salt: .*remove the file"):
        run(fresh, labels_of(fresh, tmp_path, "l"))
    assert fresh.label_names() == []


def test_who_knows_the_salt_alone_cannot_try_names(fresh: Dataset, tmp_path: Path) -> None:
    salt = Path(str(fresh.root)) / "labels" / ".salt"
    salt.parent.mkdir()
    salt.write_bytes(b"5a" * 32)
    import_labels(fresh, labels_of(fresh, tmp_path, "l"), format="table", name="n")
    [hashed] = fresh.labels("n")["annotator"].to_pylist()
    known = hmac.new(b"\x5a" * 32, b"table\nanna@example.org", hashlib.sha256).hexdigest()
    assert hashed != known[:16]


@pytest.mark.parametrize("salted", [False, True])
def test_of_two_imports_under_one_name_at_once_the_later_is_refused(
    fresh: Dataset, tmp_path: Path, salted: bool
) -> None:
    """The other one writes its tables after this one has looked whether they are there."""
    mine, other = labels_of(fresh, tmp_path, "mine"), labels_of(fresh, tmp_path, "other", "b")
    if salted:
        import_labels(fresh, mine, format="table", name="before")

    def meanwhile(text: str) -> None:
        import_labels(fresh, other, format="table", name="n")

    with pytest.raises(PpodError, match="another --name" if salted else "run the command again"):
        import_labels(fresh, mine, format="table", name="n", progress=Watch({"status": meanwhile}))
    assert set(fresh.labels("n")["file"].to_pylist()) == {"other.csv"}
