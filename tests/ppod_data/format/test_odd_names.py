"""Names that come from data never lead outside the folder: in tables, tars, seals, stores, merge files and folders."""

import contextlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.merge import expand, merge
from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.format.sums import decode_sums
from ppod_data.format.tables import PAIRS, SAMPLES, read_table, write_table
from ppod_data.inspect.card import write_card
from ppod_data.integrity.purge import purge
from ppod_data.integrity.seal import seal
from ppod_data.integrity.verify import verify
from ppod_data.labels.export.export import export_pairs
from ppod_data.publish.export_images import export
from ppod_data.publish.transfer import is_safe_name, pull, push
from ppod_data.scoring.score import score
from ppod_data.storage.files import below
from ppod_data.storage.object_store import StorePath, store_path
from tests.support.damage import Brightness, make_whole
from tests.support.toy import files, make_dataset

ODD = {
    "parent": "../../victim",
    "deep parent": "a/../../../victim",
    "absolute": "/tmp/ppod-victim",
    "home": "~/victim",
    "parent alone": "..",
    "nothing": "",
    "hidden": ".ssh",
    "option": "-rf",
    "NUL": "a\0b",
    "newline": "a\nb",
    "escape": "a\x1b[31m",
    "backslash": "..\\victim",
    "device": "/dev/stdout",
    "drive": "C:victim",
    "long": "x" * 5000,
    "URL": "http://127.0.0.1:9/x",
    "right to left": "a\u202eb",
}


def rewritten(path: Path, schema: Any, **values: str) -> None:
    """Change columns of a table's first row, with right checksums, as a stranger who knows the format."""
    table = read_table(path, schema)
    rows = table.to_pylist()
    rows[0] |= values
    path.unlink()
    write_table(path, pa.Table.from_pylist(rows, schema=table.schema), 64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with every kind of table."""
    return Path(str(make_whole(tmp_path_factory.mktemp("whole") / "data", sealed=False, excluded=False).root))


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Dataset:
    """A copy to change."""
    shutil.copytree(whole, tmp_path / "a" / "data")
    return Dataset.open(tmp_path / "a" / "data")


@pytest.mark.parametrize("layout", ["flat", "prompt"])
@pytest.mark.parametrize("column", ["sample_id", "prompt_id"])
def test_ids_of_samples_name_no_file_outside_an_export(
    tmp_path: Path, dataset: Dataset, column: str, layout: str
) -> None:
    assert isinstance(dataset.root, Path)
    out = tmp_path / "b" / "out" / "images"
    for odd in ODD.values():
        rewritten(dataset.root / "samples" / "000000.parquet", SAMPLES, prompt="🐇", **{column: odd})
        before = files(tmp_path)
        try:
            export(Dataset.open(dataset.root), out, layout=layout)
        except DamagedError as error:
            assert "cannot name" in str(error)
        else:
            assert column == "prompt_id" and (layout == "flat" or len(odd) > 8)
        shutil.rmtree(out)
        assert files(tmp_path) == before, odd
        assert verify(dataset.root).of("damaged"), odd


@pytest.mark.parametrize("format", ["webdataset", "flow-factory", "label-studio", "csv"])
@pytest.mark.parametrize("column", ["pair_id", "chosen_id"])
def test_ids_of_pairs_name_no_member_and_no_file(
    tmp_path: Path, dataset: Dataset, column: str, format: str
) -> None:
    assert isinstance(dataset.root, Path)
    for odd in ODD.values():
        rewritten(dataset.root / "pairs" / "brightness.parquet", PAIRS, **{column: odd})
        before = files(tmp_path)
        with pytest.raises(PpodError, match=r"is not valid|is missing"):
            export_pairs(
                Dataset.open(dataset.root), name="brightness", format=format, out=tmp_path / "b" / "out"
            )
        assert files(tmp_path) == before, odd
        assert verify(dataset.root).of("damaged"), odd


def test_a_sample_and_its_pair_that_agree_on_an_odd_name_are_refused(
    tmp_path: Path, dataset: Dataset
) -> None:
    assert isinstance(dataset.root, Path)
    rewritten(dataset.root / "samples" / "000000.parquet", SAMPLES, sample_id="../../victim")
    path = dataset.root / "pairs" / "brightness.parquet"
    others = dataset.samples(["sample_id"])["sample_id"].to_pylist()[1:3]
    table = read_table(path, PAIRS).slice(0, 1)
    row = table.to_pylist()[0] | {"chosen_id": "../../victim", "rejected_id": others[0]}
    path.unlink()
    write_table(path, pa.Table.from_pylist([row], schema=table.schema))
    with pytest.raises(DamagedError, match="cannot name"):
        export_pairs(dataset, name="brightness", format="flow-factory", out=tmp_path / "b" / "out")
    assert [path.name for path in tmp_path.rglob("victim*")] == []


def test_traj_file_names_nothing_outside(tmp_path: Path, dataset: Dataset) -> None:
    assert isinstance(dataset.root, Path)
    for odd in ODD.values():
        rewritten(dataset.root / "samples" / "000000.parquet", SAMPLES, traj_file=odd)
        ids = dataset.samples(["sample_id"])["sample_id"].to_pylist()
        for work in (
            lambda ids=ids: dataset.trajectory(ids[0]),
            lambda: seal(Path(str(dataset.root))),
            lambda: push(dataset, f"file://{tmp_path}/store"),
        ):
            with pytest.raises(DamagedError, match="never writes"):
                work()
        assert verify(dataset.root, read_data=1).of("damaged"), odd
        assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("odd", ODD)
def test_one_plain_name_or_none(odd: str) -> None:
    assert below(Path("out"), "cats-0123abcd", "x.png") == Path("out/cats-0123abcd/x.png")
    with pytest.raises(DamagedError, match="cannot name a file"):
        below(Path("out"), ODD[odd])
    assert not is_safe_name(ODD[odd]) and not is_safe_name(f"samples/{ODD[odd]}")
    if odd != "long":  # a seal may name what is not there
        with pytest.raises(DamagedError, match=r"seal|outside the folder"):
            decode_sums(f"{'0' * 64}  {ODD[odd]}\n".encode(), "SHA256SUMS")


@pytest.mark.parametrize("name", ["a b", "a\x1b[31m<b>", "x" * 120, "ü", "-rf", "a\nb", "~"])
def test_tables_of_odd_names_are_skipped_everywhere_and_listed(dataset: Dataset, name: str) -> None:
    root = dataset.root
    assert isinstance(root, Path)
    for kind in ("labels", "pairs"):
        shutil.copy(root / kind / "people.parquet", root / kind / f"{name}.parquet")
    for kind, table in (("scores", "brightness"), ("log_probs", "again")):
        shutil.copytree(root / kind / table, root / kind / name)
    names = [dataset.label_names(), dataset.pair_names(), dataset.score_names(), dataset.log_prob_names()]
    assert names == [["people"], ["brightness", "people"], ["brightness"], ["again"]]
    write_card(root)
    assert f"labels/{name}" not in (root / "README.md").read_text()
    score(dataset, Brightness(), name="other")
    purge(dataset)
    seal(root)
    assert not (root / "pairs" / f"{name}.sha256").exists()
    found = verify(root, read_data=1)
    assert {finding.kind for finding in found.findings} == {"leftover"}
    assert sorted(finding.file for finding in found.findings) == sorted(
        [f"labels/{name}.parquet", f"pairs/{name}.parquet", f"scores/{name}", f"log_probs/{name}"]
    )


@pytest.mark.parametrize(
    "key", ["../victim", "samples/../../victim", "samples/.hidden", "labels/a b.txt", "x/y/z", "-rf", "a\nb"]
)
def test_keys_of_a_store_name_no_file_outside_a_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """A bucket may hold any key; memory:// would tidy some up, so the listing is given what S3 would list."""
    dataset = make_dataset(tmp_path / "data")
    url = f"memory://{tmp_path.name}/data"
    push(dataset, url)
    listed = store_path(url).listing
    monkeypatch.setattr(StorePath, "listing", lambda self: listed() | {key: next(iter(listed().values()))})
    pull(url, tmp_path / "b" / "c" / "copy")
    assert sorted(files(tmp_path / "b")) == sorted(f"c/copy/{name}" for name in files(tmp_path / "data"))
    assert not (tmp_path / "b" / "victim").exists()


PARTS = (
    *("reference://x::file:///x/refs.json", "zip://a::http://127.0.0.1:9/x.zip", "http://127.0.0.1:9/data"),
    *(
        "https://127.0.0.1:9/d",
        "filecache::http://127.0.0.1:9/d",
        "simplecache::s3://b/d",
        "github://o:r@m/x",
    ),
    *("ftp://h/x", "sftp://h/x", "ssh://h/x", "smb://h/x", "webhdfs://h/x", "dask://x", "REFERENCE://x"),
    *("jupyter://h/x", "libarchive://x::file:///y", "data://x", "root://h/x", "reference://"),
)


@pytest.mark.parametrize("part", PARTS)
def test_a_merge_file_names_folders_and_served_stores_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    import fsspec

    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda *args, **options: pytest.fail("a store was opened"))
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"format": "ppod-merge", "version": 1, "parts": [part]}))
    with pytest.raises(ConfigError, match="the parts of a merge must be folders"):
        expand([path])
    with pytest.raises(ConfigError, match=r"the parts of a merge|chained and computed|cannot be listed"):
        merge(tmp_path / "new.json", [StorePath(part)])
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize("url", ["reference://x", "zip://a::memory://b", "s3://a::memory://a/b", "dir://x"])
def test_urls_made_of_others_are_not_opened(url: str) -> None:
    with pytest.raises(ConfigError, match="chained and computed"):
        Dataset.open(url)


def test_an_exported_tar_holds_plain_names(tmp_path: Path, dataset: Dataset) -> None:
    export_pairs(dataset, name="brightness", format="webdataset", out=tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        with tarfile.open(path) as tar:
            assert all(below(Path(), member.name) for member in tar.getmembers())


WORKS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", WORKS)
@pytest.mark.parametrize(
    "name",
    [
        *("ppod.json", "samples/000000.parquet", "labels/people.parquet", "pairs/people.parquet"),
        *("scores/brightness/000000.parquet", "exclusions.jsonl", "SHA256SUMS", "pairs/people.sha256"),
    ],
)
def test_pipes_devices_and_folders_in_place_of_files_end_no_command_in_a_wait(
    tmp_path: Path, dataset: Dataset, name: str, kind: str
) -> None:
    root = dataset.root
    assert isinstance(root, Path)
    (root / name).unlink(missing_ok=True)
    WORKS[kind](root / name)
    report: list[object] = []
    for work in (
        lambda: report.append(verify(root, read_data=1).findings),
        lambda: Dataset.open(root).samples(),
        lambda: Dataset.open(root).labels("people"),
        lambda: write_card(root),
        lambda: seal(root),
        lambda: push(Dataset.open(root), f"file://{tmp_path}/store"),
        lambda: pull(f"file://{root}", tmp_path / "pulled"),
        lambda: purge(Dataset.open(root)),
    ):
        with contextlib.suppress(PpodError, OSError):
            work()
    assert report != [[]]
