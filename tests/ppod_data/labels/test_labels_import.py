"""Importing labels: never a crash, never a silent drop; nothing written before everything is right."""

import copy
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, PpodError
from ppod_data.labels.answers import Bad, Comparison, Rating, Record, Skipped, each
from ppod_data.labels.formats import pickapic
from ppod_data.labels.formats.by_name import FORMATS, Format
from ppod_data.labels.importing import ImportSummary, import_labels
from ppod_data.labels.matching import SampleIndex
from ppod_data.labels.secret import salt_path
from ppod_data.labels.votes import Votes, merge
from ppod_data.publish.transfer import push
from ppod_data.storage import object_store
from ppod_data.storage.files import atomic_create
from tests.support.label_cases import prompts, records, sample_ids, write_lines
from tests.support.progress import Watch
from tests.support.toy import files, make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("labels") / "data")


@pytest.fixture(scope="module")
def right(dataset: Dataset) -> dict[str, list[Any]]:
    """Right records of each format."""
    return records(dataset)


def forget(dataset: Dataset) -> None:
    """Remove all labels and pairs."""
    for folder in ("labels", "pairs"):
        shutil.rmtree(dataset.root / folder, ignore_errors=True)


def forget_tables(dataset: Dataset) -> None:
    """Remove labels and pairs, but not the secret that annotators are hashed with."""
    for path in [*(dataset.root / "labels").glob("n.*"), *(dataset.root / "pairs").glob("n.*")]:
        path.unlink()


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from(
        [10**400, -1, 0.5, float("nan"), float("inf"), "", " ", "tie", "a", "\ud800", "\0", "left"]
    ),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-1, 2), max_size=4),
    st.dictionaries(
        st.sampled_from(["rank", "value", "id", "path", "bytes"]), st.integers(-1, 2), max_size=2
    ),
    st.just("data:image/png;base64,%%%"),
)
JUNK_BUT_TEXT = JUNK.filter(lambda value: not isinstance(value, str))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every part of a record, itself included."""
    found = [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        found += places(one, (*path, key))
    return found


@st.composite
def spoiled(draw: st.DrawFn, good: list[Any]) -> Any:
    """A right record with up to three parts replaced or removed; sometimes none, sometimes all of it.

    Indexes are drawn, and no element: hypothesis would validate a new `sampled_from` each time, which takes longest.
    """
    record = copy.deepcopy(good[draw(st.integers(0, len(good) - 1))])
    for _ in range(draw(st.integers(0, 3))):
        paths = places(record)
        path = paths[draw(st.integers(0, len(paths) - 1))]
        if not path:
            return draw(JUNK_BUT_TEXT)
        holder = record
        for key in path[:-1]:
            holder = holder[key]
        if draw(st.booleans()):
            holder[path[-1]] = draw(JUNK)
        else:
            del holder[path[-1]]
    return record


IN_FILES = [format for format in FORMATS if format != "folders"]


@pytest.mark.parametrize("format", IN_FILES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_rows_in_are_labels_ties_rejects_and_skipped(
    dataset: Dataset,
    right: dict[str, list[Any]],
    tmp_path_factory: pytest.TempPathFactory,
    format: str,
    data: st.DataObject,
) -> None:
    """25 files of up to 80 records a format; lines that are no JSON among them."""
    good = right[format]
    lines = st.sampled_from(["raw:{", "raw:nonsense", "raw:[1,", "raw:" + "[" * 5000])
    least, most = (2, 2) if format == "d3po" else (30, 80)  # a record a prompt, or the file is refused
    rows = data.draw(st.lists(st.one_of(spoiled(good), spoiled(good), lines), min_size=least, max_size=most))
    path = write_lines(tmp_path_factory.mktemp("rows") / "l.jsonl", rows)
    forget(dataset)
    try:
        done = import_labels(dataset, path, format=format, name="n", skip_bad=True, keep_ties=True)
    except ConfigError as error:
        assert (
            "no labels" in str(error)
            or "a data set of their own" in str(error)
            or "--dimension" in str(error)
            or "into the data set that it was made from" in str(error)
        )
        assert not [name for name in files(dataset.root) if name.startswith(("labels/n", "pairs"))]
        return
    labels = dataset.labels("n").to_pylist()
    assert len(labels) == done.num_preferences + done.num_ties
    assert done.num_ties == sum(row["label"] == 0.5 for row in labels)
    assert all(0 <= row["label"] <= 1 and row["a_id"] != row["b_id"] for row in labels)
    used = done.num_ratings if done.num_ratings else len(labels)
    assert done.num_answers == used + done.num_rejected + done.num_skipped
    assert done.num_records == len(rows)
    seen = {row["record"] for row in labels}
    if done.num_rejected:
        rejects = [json.loads(line) for line in (dataset.root / "labels" / "n.rejects.jsonl").open()]
        assert len(rejects) == done.num_rejected
        assert all(row["reason"] and row["file"] == "l.jsonl" for row in rejects)
        seen |= {row["record"] for row in rejects}
    if not done.num_skipped and not done.num_ratings:
        assert seen == set(range(1, len(rows) + 1))


@pytest.mark.parametrize("format", IN_FILES)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_parser_answers_every_record(right: dict[str, list[Any]], format: str, data: st.DataObject) -> None:
    for record in data.draw(st.lists(spoiled(right[format]), min_size=5, max_size=10)):
        answers = list(each(Record(record, "f", 1), FORMATS[format].parse))
        assert answers
        for answer in answers:
            if isinstance(answer, Comparison):
                assert 0 <= answer.label <= 1 and (answer.votes is None or answer.votes > 0)
            else:
                assert isinstance(answer, Rating | Skipped | Bad)


def pick_rows(dataset: Dataset) -> st.SearchStrategy[dict[str, Any]]:
    ids, (first, second) = sample_ids(dataset), prompts(dataset)
    return st.fixed_dictionaries(
        {
            "caption": st.sampled_from([first, second, f" {first}", "another", None]),
            "image_0_uid": st.sampled_from([*ids[:4], "else", None]),
            "image_1_uid": st.sampled_from([*ids[:4], f"{ids[1]}.png", None]),
            "label_0": st.sampled_from([0.0, 0.5, 1.0, 0.7, float("nan"), 2.0, None]),
            "label_1": st.sampled_from([0.0, 0.5, 1.0, 0.3, -1.0, None]),
            "has_label": st.sampled_from([True, True, True, False, None]),
            "user_id": st.sampled_from([1, 2, None]),
        }
    )


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_rows_at_once_give_what_one_by_one_gives(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    ids, prompt = sample_ids(dataset), prompts(dataset)[0]
    right = {"caption": prompt, "image_0_uid": ids[0], "image_1_uid": ids[1], "label_0": 1.0, "label_1": 0.0}
    rows = [right | {"has_label": True, "user_id": 3}, *data.draw(st.lists(pick_rows(dataset), max_size=40))]
    path = tmp_path_factory.mktemp("rows") / "l.parquet"
    pq.write_table(pa.Table.from_pylist(rows, pq_schema()), path)
    outcomes = []
    for columns in (pickapic.columns, None):
        forget_tables(dataset)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(FORMATS, "pickapic", Format(pickapic.parse, columns))
            done = import_labels(dataset, path, format="pickapic", name="n", skip_bad=True)
        by_record = sorted(dataset.labels("n").to_pylist(), key=lambda row: row["record"])
        rejects = dataset.root / "labels" / "n.rejects.jsonl"
        outcomes.append((done, by_record, dataset.pairs("n").to_pylist() if done.num_pairs else []))
        outcomes[-1] += (rejects.read_text() if rejects.exists() else "",)
    assert outcomes[0] == outcomes[1]


def pq_schema() -> Any:
    text = {name: pa.string() for name in ("caption", "image_0_uid", "image_1_uid")}
    numbers = {
        "label_0": pa.float64(),
        "label_1": pa.float64(),
        "has_label": pa.bool_(),
        "user_id": pa.int64(),
    }
    return pa.schema(list((text | numbers).items()))


def table_file(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    return write_lines(tmp_path / "l.jsonl", rows)


def run(dataset: Dataset, tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> ImportSummary:
    forget(dataset)
    return import_labels(dataset, table_file(tmp_path, rows), format="table", name="n", **options)


def test_votes_of_several_people_become_one_soft_label(dataset: Dataset, tmp_path: Path) -> None:
    s = sample_ids(dataset)
    rows = [
        {"a": s[0], "b": s[1], "label": "a"},
        {"a": s[1], "b": s[0], "label": "b"},
        {"a": s[1], "b": s[0], "label": "a"},
        {"a": s[0], "b": s[1], "label": "tie"},
        {"a": s[4], "b": s[3], "votes_a": 9, "votes_b": 1},
    ]
    done = run(dataset, tmp_path, rows)
    pairs = dataset.pairs("n").to_pylist()
    assert [(row["chosen_id"], row["rejected_id"], row["votes"]) for row in pairs] == [
        (s[0], s[1], 3),
        (s[4], s[3], 10),
    ]
    assert [row["label"] for row in pairs] == pytest.approx([2 / 3, 0.9])
    assert (done.num_ties, done.num_contradictory, done.num_undecided) == (1, 1, 0)
    run(dataset, tmp_path, rows, keep_ties=True)
    assert dataset.pairs("n")["label"].to_pylist() == pytest.approx([2.5 / 4, 0.9])


def test_a_tie_is_never_a_win(dataset: Dataset, tmp_path: Path) -> None:
    s = sample_ids(dataset)
    rows = [
        {"a": s[0], "b": s[1], "label": "tie"},
        {"a": s[1], "b": s[2], "label": "a"},
        {"a": s[1], "b": s[2], "label": "b"},
    ]
    done = run(dataset, tmp_path, rows)
    assert (done.num_pairs, done.num_ties, done.num_undecided) == (0, 1, 1)
    assert dataset.pair_names() == [] and dataset.label_names() == ["n"]
    done = run(dataset, tmp_path, rows, keep_ties=True)
    assert dataset.pairs("n")["label"].to_pylist() == [0.5, 0.5]


def test_a_bad_row_stops_before_anything_is_written(dataset: Dataset, tmp_path: Path) -> None:
    s = sample_ids(dataset)
    forget(dataset)
    before = files(dataset.root)
    cases = {
        "an image compared with itself": {"a": s[0], "b": s[0], "label": "a"},
        "images of two prompts": {"a": s[0], "b": s[3], "label": "a"},
        "differs from the prompt of the images": {
            "a": s[0],
            "b": s[1],
            "label": "a",
            "prompt": prompts(dataset)[1],
        },
        "is not an image of this data set": {"a": s[0], "b": "elsewhere", "label": "a"},
        "label is missing": {"a": s[0], "b": s[1]},
        "write a, b, tie or the probability": {"a": s[0], "b": s[1], "label": "c"},
    }
    for reason, row in cases.items():
        rows = [{"a": s[0], "b": s[1], "label": "a"}, row, row]
        path = table_file(tmp_path, rows)
        with pytest.raises(ConfigError, match=rf"^l\.jsonl:2: .*{reason}.* \(and 1 more\).*--skip-bad"):
            import_labels(dataset, path, format="table", name="n")
        assert files(dataset.root) == before


def test_labels_on_other_images_are_refused_in_one_line(dataset: Dataset, tmp_path: Path) -> None:
    rows = [{"a": "x.png", "b": "y.png", "label": "a"}] * 3
    for skip_bad in (False, True):
        with pytest.raises(ConfigError, match="3 answers were read, but none of the images is a sample"):
            run(dataset, tmp_path, rows, skip_bad=skip_bad)


def test_the_same_import_again_changes_nothing_and_another_is_refused(
    dataset: Dataset, tmp_path: Path
) -> None:
    s = sample_ids(dataset)
    rows = [{"a": s[0], "b": s[1], "label": "a", "annotator": "anna"}]
    first = run(dataset, tmp_path, rows)
    before = files(dataset.root)
    again = import_labels(dataset, tmp_path / "l.jsonl", format="table", name="n")
    assert again == first and files(dataset.root) == before
    table_file(tmp_path, [*rows, {"a": s[0], "b": s[2], "label": "a"}])
    with pytest.raises(
        ConfigError, match=r"labels/n\.parquet was made with other files: .* give another --name"
    ):
        import_labels(dataset, tmp_path / "l.jsonl", format="table", name="n")
    assert files(dataset.root) == before


def test_no_name_of_a_person_is_in_the_data_set(dataset: Dataset, tmp_path: Path) -> None:
    s = sample_ids(dataset)
    people = ("anna@example.org", "bert", "anna@example.org")
    rows = [{"a": s[0], "b": s[1], "label": "a", "annotator": who} for who in people]
    run(dataset, tmp_path, [*rows, {"a": s[0], "b": s[1], "label": "z", "annotator": "cleo"}], skip_bad=True)
    hashed = dataset.labels("n")["annotator"].to_pylist()
    assert hashed[0] == hashed[2] != hashed[1]
    assert not [name for name, data in files(dataset.root).items() if b"anna" in data or b"cleo" in data]
    once = hashed[0]
    run(dataset, tmp_path, rows)  # the secret was forgotten with the labels
    assert dataset.labels("n")["annotator"].to_pylist()[0] != once


def test_the_secret_of_a_data_set_in_a_store_is_not_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the user's, for every copy of the data set in a store; another user's hashes are others."""
    local = make_dataset(tmp_path / "data")
    a, b = sample_ids(local)[:2]
    write_lines(tmp_path / "l.jsonl", [{"a": a, "b": b, "label": "a", "annotator": "anna"}])
    hashed = []
    for user in ("one", "one", "two"):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / user))
        url = f"memory://{uuid.uuid4().hex}/data"
        push(local, url)
        dataset = Dataset.open(url)
        for _ in range(2):
            import_labels(dataset, tmp_path / "l.jsonl", format="table", name="n")
        hashed += dataset.labels("n")["annotator"].to_pylist()
        [secret] = (tmp_path / user / "ppod" / "annotators").iterdir()
        assert secret == salt_path(dataset) and secret.stem == dataset.spec.fingerprint
        assert secret.parent.stat().st_mode & 0o077 == 0
        stored = object_store.store_path(url).listing()
        assert "labels/n.parquet" in stored and not [name for name in stored if "salt" in name]
    assert hashed[0] == hashed[1] != hashed[2]
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "one"))
    with pytest.raises(ConfigError, match="was made from other scores, labels or images"):
        import_labels(dataset, tmp_path / "l.jsonl", format="table", name="n")


def test_several_dimensions_need_a_choice(dataset: Dataset, tmp_path: Path) -> None:
    s = sample_ids(dataset)
    rows = [
        {"a": s[0], "b": s[1], "label": "a", "dimension": "beauty"},
        {"a": s[0], "b": s[1], "label": "b", "dimension": "truth"},
    ]
    with pytest.raises(ConfigError, match="labels are on beauty, truth: choose"):
        run(dataset, tmp_path, rows)
    run(dataset, tmp_path, rows, dimension="truth")
    assert dataset.pairs("n")["chosen_id"].to_pylist() == [s[1]]
    assert dataset.labels("n").num_rows == 2


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 3)
        ),
        max_size=30,
    ),
    st.booleans(),
)
def test_merging_does_not_depend_on_the_side_or_the_order(
    rows: list[tuple[int, int, float, int]], keep_ties: bool
) -> None:
    rows = [row for row in rows if row[0] != row[1]]

    def votes(rows: list[tuple[int, int, float, int]]) -> Votes:
        a, b, label, people = zip(*rows, strict=True) if rows else ((), (), (), ())
        return Votes(
            a=np.array(a, np.int32),
            b=np.array(b, np.int32),
            label=np.array(label, np.float64),
            votes=np.array(people, np.int32),
        )

    one = merge(votes(rows), keep_ties=keep_ties)
    other = merge(votes([(b, a, 1 - label, n) for a, b, label, n in reversed(rows)]), keep_ties=keep_ties)
    for field in ("chosen", "rejected", "label", "votes"):
        assert getattr(one, field).tolist() == getattr(other, field).tolist()
    assert (one.label >= 0.5).all() and (keep_ties or (one.label > 0.5).all())
    assert one.num_contradictory == other.num_contradictory


def test_the_index_knows_every_sample(dataset: Dataset) -> None:
    index = SampleIndex.read(dataset)
    assert index.prompt_of.tolist() == [0, 0, 0, 1, 1, 1]
    assert index.ids.to_pylist() == sample_ids(dataset)


def test_a_person_who_answers_again_is_one_vote(tmp_path: Path) -> None:
    """The first answer counts, whichever side the images were on; unnamed answers all count."""
    dataset = make_dataset(tmp_path / "data")
    s = sample_ids(dataset)
    said = [(0, 1, "a", "u"), (1, 0, "a", "u"), (0, 1, "b", "v"), (0, 1, "a", "w"), (0, 2, "a", None)]
    said += [(0, 2, "a", None), (1, 2, "b", "u")]
    rows = [{"a": s[a], "b": s[b], "label": label, "annotator": who} for a, b, label, who in said]
    done = import_labels(dataset, write_lines(tmp_path / "l.jsonl", rows), format="table", name="n")
    assert done.num_preferences == 7, "every answer stays a label"
    found = {
        (p["chosen_id"], p["rejected_id"]): (p["label"], p["votes"]) for p in dataset.pairs("n").to_pylist()
    }
    assert found[s[0], s[1]] == (pytest.approx(2 / 3), 3)
    assert found[s[0], s[2]] == (1.0, 2) and found[s[2], s[1]] == (1.0, 1)


def test_an_import_whose_secret_another_one_made_meanwhile_writes_nothing(
    dataset: Dataset, tmp_path: Path
) -> None:
    """Its annotators are hashed with a secret that nobody keeps: the same person would be another one elsewhere."""
    forget(dataset)
    file = write_lines(tmp_path / "labels.jsonl", records(dataset)["table"])

    def other(text: str) -> None:
        atomic_create(dataset.root / "labels" / ".salt", b"5a" * 32)

    with pytest.raises(PpodError, match="run the command again"):
        import_labels(dataset, file, format="table", name="mine", progress=Watch({"status": other}))
    assert dataset.label_names() == [] and dataset.pair_names() == []
    import_labels(dataset, file, format="table", name="mine")
    assert dataset.label_names() == ["mine"]
    forget(dataset)
