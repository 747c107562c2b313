"""Several data sets in one small file: paths that hold where the file is, and samplers that agree."""

import json
from pathlib import Path

import pytest

from ppod_data.dataset.merge import expand, merge
from ppod_data.errors import ConfigError
from tests.support.toy import make_dataset


def test_the_parts_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = [make_dataset(tmp_path / "a" / str(seed), seed=seed).root for seed in (0, 1)]
    (tmp_path / "mixes").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    merge(Path("../mixes/both.json"), [Path("0"), roots[1]])
    assert json.loads((tmp_path / "mixes" / "both.json").read_text())["parts"] == ["../a/0", "../a/1"]
    monkeypatch.chdir(tmp_path)
    found = expand([Path("mixes/both.json"), Path("other")])
    assert [path.resolve() for path in found] == [*roots, tmp_path / "other"]
    (tmp_path / "moved").mkdir()
    (tmp_path / "a").rename(tmp_path / "moved" / "a")
    (tmp_path / "mixes").rename(tmp_path / "moved" / "mixes")
    assert all((root / "ppod.json").exists() for root in expand([tmp_path / "moved" / "mixes" / "both.json"]))


def test_incompatible_and_repeated_parts_are_refused(tmp_path: Path) -> None:
    a = make_dataset(tmp_path / "a").root
    b = make_dataset(tmp_path / "b", guidance_scale=3.0).root
    with pytest.raises(
        ConfigError, match=r"b was made with guidance_scale 3\.0, the first data set with 5\.0"
    ):
        merge(tmp_path / "out.json", [a, b])
    with pytest.raises(ConfigError, match="name it once"):
        merge(tmp_path / "out.json", [a, a])
    with pytest.raises(ConfigError, match="no such folder"):
        merge(tmp_path / "out.json", [a, tmp_path / "c"])
    with pytest.raises(ConfigError, match="this is a folder"):
        merge(a, [a])
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": "ppod-dataset"}', '{"format": "ppod-merge", "version": 1, "parts": [1]}'],
)
def test_other_files_are_no_merge(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match="not a file of ppod-data merge"):
        expand([tmp_path / "x.json"])


def test_newer_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"format": "ppod-merge", "version": 2, "parts": []}')
    with pytest.raises(ConfigError, match="update ppod"):
        expand([tmp_path / "x.json"])
