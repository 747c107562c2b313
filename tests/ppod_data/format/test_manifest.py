"""ppod.json makes a folder a data set of one spec; another spec, an edited file and a foreign folder are refused."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ppod_data import Dataset
from ppod_data.dataset.dataset import create
from ppod_data.errors import ConfigError, DamagedError, SpecMismatchError
from ppod_data.format.manifest import read_manifest
from ppod_data.support.canonical_json import canonical_json
from tests.support.toy import files, make_dataset, make_spec


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two shards of four and two samples."""
    return make_dataset(tmp_path / "data")


def test_the_manifest_is_a_pure_function_of_the_options(tmp_path: Path) -> None:
    for name in ("a", "b"):
        create(tmp_path / name, make_spec(), "cc0-1.0")
    data = (tmp_path / "a" / "ppod.json").read_bytes()
    assert data == (tmp_path / "b" / "ppod.json").read_bytes()
    assert os.listdir(tmp_path / "a") == ["ppod.json"]
    manifest = json.loads(data)
    assert list(manifest) == ["format", "version", "fingerprint", "license", "log_probs", "spec", "sha256"]
    assert "zwölf grüne Hasen 🐇".encode() in data, "readable as it is"
    assert Dataset.open(tmp_path / "a").manifest == manifest


def test_creating_again_opens(dataset: Dataset) -> None:
    before = files(dataset.root)
    assert create(dataset.root, make_spec(model="./scenes", revision="x")).spec == dataset.spec
    assert files(dataset.root) == before


def test_another_spec_or_licence_is_refused_with_the_folder(tmp_path: Path) -> None:
    create(tmp_path / "data", make_spec(), "cc0-1.0")
    with pytest.raises(
        SpecMismatchError, match=rf"{tmp_path / 'data'}: seed differs: 0 in the data set, 1 in"
    ):
        create(tmp_path / "data", make_spec(seed=1), "cc0-1.0")
    with pytest.raises(
        SpecMismatchError, match=r"license differs: 'cc0-1.0' in the data set, 'mit' in the options"
    ):
        create(tmp_path / "data", make_spec(), "mit")
    assert create(tmp_path / "data", make_spec()).manifest["license"] == "cc0-1.0"


def test_a_bad_spec_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ddim_eta"):
        create(tmp_path / "data", make_spec(ddim_eta=0.0))
    assert not (tmp_path / "data").exists()


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds other files \(README.md\): give a new or an empty folder"):
        create(tmp_path, make_spec())
    with pytest.raises(ConfigError, match="a file of this name exists"):
        create(tmp_path / "README.md", make_spec())
    assert files(tmp_path) == {"README.md": b"mine"}


def test_what_is_no_data_set_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder: make one with ppod-gen"):
        Dataset.open(tmp_path / "x")
    with pytest.raises(ConfigError, match=r"not a ppod data set \(no ppod.json\)"):
        Dataset.open(tmp_path)


def signed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the checksum of what it says now, as a later version would write it."""
    values = {key: value for key, value in manifest.items() if key != "sha256"}
    return values | {"sha256": hashlib.sha256(canonical_json(values).encode()).hexdigest()}


def test_a_flipped_bit_anywhere_in_a_manifest_is_damage(dataset: Dataset) -> None:
    """Not another format, not a later version: that is what a flip in "format" or "version" looked like."""
    path = dataset.root / "ppod.json"
    whole = path.read_bytes()
    for place in range(0, len(whole) * 8, 5):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(DamagedError):
            read_manifest(dataset.root)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            lambda manifest: signed(manifest | {"version": 9}),
            ConfigError,
            "format version 9; this ppod reads versions up to 4",
        ),
        (
            lambda manifest: signed(manifest | {"format": "other"}),
            ConfigError,
            "not the manifest of a ppod data set",
        ),
        (lambda manifest: {"format": "other"}, ConfigError, "not the manifest of a ppod data set"),
        (lambda manifest: signed(manifest | {"version": 3}), DamagedError, "edited: its version"),
        (lambda manifest: manifest | {"version": 9}, DamagedError, "edited or damaged"),
        (lambda manifest: manifest | {"format": "other"}, DamagedError, "edited or damaged"),
        (lambda manifest: [manifest], ConfigError, "not the manifest of a ppod data set"),
        (lambda manifest: manifest | {"fingerprint": "0" * 64}, DamagedError, "edited: its fingerprint"),
        (lambda manifest: manifest | {"license": None}, DamagedError, "edited"),
        (lambda manifest: manifest | {"spec": manifest["spec"] | {"seed": 1}}, DamagedError, "edited"),
        (
            lambda manifest: manifest | {"spec": manifest["spec"] | {"eta": 1}},
            DamagedError,
            "unknown key 'eta'",
        ),
        (lambda manifest: manifest | {"spec": None}, DamagedError, "edited or truncated"),
    ],
)
def test_an_edited_manifest_is_refused(dataset: Dataset, change: Any, kind: type, message: str) -> None:
    path = dataset.root / "ppod.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(kind, match=message) as error:
        Dataset.open(dataset.root)
    assert type(error.value) is kind and "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_cut_manifest_is_refused(dataset: Dataset, share: float) -> None:
    path = dataset.root / "ppod.json"
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(DamagedError, match="not readable as JSON"):
        Dataset.open(dataset.root)
