"""What each label format says: its public schema, read as its authors mean it, and containers of every kind."""

import csv
import json
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import DamagedError
from ppod_data.labels.answers import Record
from ppod_data.labels.files.records import read_records
from ppod_data.labels.importing import ImportSummary, import_labels
from tests.support.label_cases import prompts, records, sample_ids, write_lines
from tests.support.toy import make_dataset

# (a, b, label, votes, dimension) of each row of labels/<name>, images by their place; and what was skipped.
EXPECTED: dict[str, tuple[list[tuple[Any, ...]], dict[str, int]]] = {
    "pickapic": ([(0, 1, 1.0, 1, "overall"), (0, 2, 0.5, 1, "overall")], {}),
    "hpdv2": (
        [
            (0, 1, 0.0, 1, "overall"),
            (0, 1, 1.0, 1, "overall"),
            (0, 2, 1.0, 1, "overall"),
            (1, 2, 1.0, 1, "overall"),
            (0, 1, 0.0, 1, "overall"),
            (0, 2, 0.0, 1, "overall"),
            (1, 2, 1.0, 1, "overall"),
        ],
        {},
    ),
    "hpdv3": ([(0, 1, 0.75, None, "overall"), (0, 2, 0.75, 12, "overall")], {}),
    "imagerewarddb": ([(0, 1, 1.0, 1, "overall"), (0, 2, 1.0, 1, "overall"), (1, 2, 0.5, 1, "overall")], {}),
    "open-image-preferences": (
        [(0, 1, 0.0, 1, "overall"), (0, 1, 0.5, 1, "overall")],
        {"not submitted": 1},
    ),
    "rapidata": ([(0, 1, 0.75, 4, "overall")], {"without votes": 1}),
    "richhf": ([(0, 1, 1.0, 1, "overall"), (0, 1, 0.5, 1, "aesthetics")], {}),
    "d3po": (
        [
            (0, 1, 1.0, 1, "overall"),
            (0, 2, 1.0, 1, "overall"),
            (1, 2, 0.5, 1, "overall"),
            (3, 4, 1.0, 1, "overall"),
            (3, 5, 0.0, 1, "overall"),
            (4, 5, 0.0, 1, "overall"),
        ],
        {},
    ),
    "label-studio": (
        [
            (0, 1, 1.0, 1, "overall"),
            (0, 1, 0.5, 1, "overall"),
            (0, 1, 1.0, 1, "overall"),
            (0, 2, 0.0, 1, "overall"),
            (1, 2, 0.0, 1, "overall"),
        ],
        {"cancelled": 1},
    ),
    "argilla": ([(0, 1, 1.0, 1, "overall")], {}),
    "ppod-label": (
        [
            (1, 0, 0.0, 1, "overall"),
            (0, 1, 0.0, 1, "overall"),
            (1, 2, 1.0, 1, "overall"),
            (0, 2, 0.5, 1, "overall"),
        ],
        {"skipped by the annotator": 1},
    ),
    "ppod-judge": (
        [(1, 0, 0.625, 1, "overall"), (1, 2, 0.5, 1, "overall")],
        {"the judge's answer could not be read": 1},
    ),
    "table": (
        [(0, 1, 1.0, 1, "overall"), (1, 2, 0.25, 8, "overall"), (0, 2, 0.5, 2, "overall")],
        {},
    ),
}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "data")


def found(dataset: Dataset, name: str) -> list[tuple[Any, ...]]:
    place = {sample_id: row for row, sample_id in enumerate(sample_ids(dataset))}
    return [
        (place[row["a_id"]], place[row["b_id"]], row["label"], row["votes"], row["dimension"])
        for row in dataset.labels(name).to_pylist()
    ]


@pytest.mark.parametrize("format", EXPECTED)
def test_a_format_is_read_as_it_is_meant(dataset: Dataset, tmp_path: Path, format: str) -> None:
    path = write_lines(tmp_path / "labels.jsonl", records(dataset)[format])
    done = import_labels(dataset, path, format=format, name="n", license="CC0-1.0")
    rows, skipped = EXPECTED[format]
    assert found(dataset, "n") == rows
    assert done.skipped == skipped
    assert done.num_preferences + done.num_ties == len(rows)
    for row in dataset.labels("n").to_pylist():
        assert (row["source"], row["file"], row["license"]) == (format, "labels.jsonl", "CC0-1.0")
        assert row["prompt"] in prompts(dataset)


def test_the_files_of_other_containers_say_the_same(dataset: Dataset, tmp_path: Path) -> None:
    rows = records(dataset)["rapidata"]
    (tmp_path / "l.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode())
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "l.parquet")
    with (tmp_path / "l.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    expected = EXPECTED["rapidata"][0]
    for number, name in enumerate(("l.json", "bom.json", "l.parquet", "l.csv")):
        import_labels(dataset, tmp_path / name, format="rapidata", name=f"n{number}")
        assert found(dataset, f"n{number}") == expected


def test_images_are_found_by_pixels_bytes_and_files(dataset: Dataset, tmp_path: Path) -> None:
    samples = dataset.samples(["image", "image_pixels_sha256"]).to_pylist()
    folder = tmp_path / "in"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "one.png").write_bytes(samples[1]["image"]["bytes"])
    rows = [{"a": samples[0]["image_pixels_sha256"], "b": "pictures/one.png", "label": "b"}]
    import_labels(dataset, write_lines(folder / "l.jsonl", rows), format="table", name="n")
    assert found(dataset, "n") == [(0, 1, 0.0, 1, "overall")]
    picked = {
        "caption": prompts(dataset)[0],
        "jpg_0": samples[0]["image"]["bytes"],
        "jpg_1": samples[2]["image"]["bytes"],
        "label_0": 1.0,
        "label_1": 0.0,
    }
    pq.write_table(pa.Table.from_pylist([picked]), tmp_path / "p.parquet")
    import_labels(dataset, tmp_path / "p.parquet", format="pickapic", name="p")
    assert found(dataset, "p") == [(0, 2, 1.0, 1, "overall")]


def test_a_file_outside_the_folder_is_not_opened(dataset: Dataset, tmp_path: Path) -> None:
    samples = dataset.samples(["image"]).to_pylist()
    (tmp_path / "one.png").write_bytes(samples[1]["image"]["bytes"])
    (tmp_path / "in").mkdir()
    rows = [{"a": sample_ids(dataset)[0], "b": "../one.png", "label": "b"}]
    with pytest.raises(ValueError, match="make a data set of these images"):
        import_labels(dataset, write_lines(tmp_path / "in" / "l.jsonl", rows), format="table", name="n")


def varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def example(values: dict[str, bytes | float]) -> bytes:
    """A tf.train.Example by hand, from the wire format of protocol buffers."""
    entries = b""
    for key, value in values.items():
        one = value if isinstance(value, bytes) else struct.pack("<f", value)
        feature = field(1 if isinstance(value, bytes) else 2, field(1, one))
        entries += field(1, field(1, key.encode()) + field(2, feature))
    return field(1, entries)


def test_tf_records_of_richhf_are_read(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "train.tfrecord"
    messages = [
        example(
            {"filename": f"train/{name}.png".encode(), "overall_score": score, "artifact_map": b"\xff\x00"}
        )
        for name, score in zip(sample_ids(dataset)[:2], (0.25, 0.75), strict=True)
    ]
    data = b"".join(struct.pack("<Q", len(one)) + b"crc1" + one + b"crc2" for one in messages)
    path.write_bytes(data)
    import_labels(dataset, path, format="richhf", name="n")
    assert found(dataset, "n") == [(0, 1, 0.0, 1, "overall")]
    path.write_bytes(data[:-7])
    with pytest.raises(DamagedError, match="truncated in record 2"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("l.json", b'{"a": 1}', "not a JSON list"),
        ("l.json", b'[{"a": 1}, {"a"', "not JSON after record 1"),
        ("l.csv", b"a,a\n1,2\n", "two columns have the same name"),
    ],
)
def test_a_file_that_stops_making_sense_is_damaged(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DamagedError, match=message):
        list(read_records(tmp_path / name))


def test_a_cut_parquet_is_damaged_and_nothing_is_written(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "l.parquet"
    pq.write_table(pa.Table.from_pylist(records(dataset)["rapidata"]), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedError, match="cannot be read as Parquet"):
        import_labels(dataset, path, format="rapidata", name="n")
    assert dataset.label_names() == []


def test_the_summary_counts_everything(dataset: Dataset, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "l.jsonl", records(dataset)["label-studio"])
    done = import_labels(dataset, path, format="label-studio", name="n")
    assert done == ImportSummary(
        num_records=2,
        num_answers=6,
        num_preferences=4,
        num_ties=1,
        num_ratings=0,
        num_ratings_alone=0,
        num_rejected=0,
        skipped={"cancelled": 1},
        num_pairs=3,
        num_undecided=0,
        num_contradictory=0,
        dimension="overall",
    )


def test_a_record_keeps_its_number(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "l.jsonl", [{"x": 1}, "raw:", {"x": 2}])
    assert list(read_records(path)) == [Record({"x": 1}, "l.jsonl", 1), Record({"x": 2}, "l.jsonl", 3)]
