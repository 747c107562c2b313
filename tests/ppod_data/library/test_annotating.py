"""The address of a labelling page: stable across restarts, and secret."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ppod_data.annotate.settings import LabelSettings
from ppod_data.errors import ConfigError
from ppod_data.library import annotating
from tests.support.toy import make_dataset


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set; pages of it are not served."""
    monkeypatch.setattr(annotating, "listen", lambda host, port: nullcontext(port))
    monkeypatch.setattr(annotating, "serve", lambda app, port, on_ready: on_ready(port))
    make_dataset(tmp_path / "data")
    return tmp_path / "data"


def token(data: Path, name: str = "people", host: str = "0.0.0.0") -> str:
    """Return the token of the address that a start of the server prints; empty without a token."""
    printed: list[str] = []
    with annotating.label_page(data, name, LabelSettings()) as page:
        page.serve(host, 8080, printed.append)
    return parse_qs(urlsplit(printed[0]).query).get("token", [""])[0]


def test_every_start_on_one_folder_of_answers_has_the_same_token(data: Path) -> None:
    first = token(data)
    assert len(first) >= 22 and token(data) == token(data, host="labels.example") == first
    assert token(data, "others") != first
    assert token(data, host="127.0.0.1") == token(data, host="localhost") == token(data, host="::1") == ""


def test_a_copy_of_the_folder_does_not_tell_the_token(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender of a data set with the salts of its labels has another key."""
    first = token(data)
    shutil.copytree(data, tmp_path / "copy")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "another user"))
    assert token(tmp_path / "copy") != first


def test_a_key_that_cannot_be_stored_is_an_error_that_names_the_variable(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"own\.key: your key cannot be stored .*: set XDG_DATA_HOME"):
        token(data)
    assert token(data, host="127.0.0.1") == ""
