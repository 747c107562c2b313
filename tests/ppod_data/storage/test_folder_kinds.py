"""No command writes over the work of another."""

from pathlib import Path

import pytest

from ppod_data.errors import ConfigError
from ppod_data.storage.folder_kinds import EVALUATION, OFFLINE, ONLINE, check_html, check_out

MARKS = {"a data set": "ppod.json", OFFLINE: "run.json", ONLINE: "online.json", EVALUATION: "after/eval.json"}


def marked(folder: Path, kind: str) -> Path:
    """A folder of a kind."""
    mark = folder / MARKS[kind]
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    return folder


@pytest.mark.parametrize("kind", [OFFLINE, ONLINE, EVALUATION])
@pytest.mark.parametrize("there", list(MARKS))
def test_a_folder_of_another_kind_is_refused_by_what_it_is(tmp_path: Path, there: str, kind: str) -> None:
    folder = marked(tmp_path / "x", there)
    if there == kind:
        check_out(folder, kind)
        return
    with pytest.raises(ConfigError, match=f"x holds {there}, which this would overwrite"):
        check_out(folder, kind)


def test_new_folders_and_folders_beside_are_fine(tmp_path: Path) -> None:
    marked(tmp_path / "run", OFFLINE)
    for place in ("new", "run/eval", "run-2"):
        check_out(tmp_path / place, EVALUATION)


@pytest.mark.parametrize(
    ("owner", "place"), [("a data set", "samples"), (OFFLINE, "policy/x"), (ONLINE, "evals")]
)
def test_folders_inside_of_anothers_own_are_refused(tmp_path: Path, owner: str, place: str) -> None:
    marked(tmp_path / "x", owner)
    with pytest.raises(ConfigError, match=f"which is {owner}"):
        check_out(tmp_path / "x" / place, OFFLINE)


def test_files_of_the_same_names_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    with pytest.raises(ConfigError, match="holds policy already and is not an offline run"):
        check_out(tmp_path, OFFLINE)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        check_out(tmp_path / "file", OFFLINE)


def test_a_page_is_written_over_a_page_alone(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    check_html(page, option="--out")
    page.write_text("<!doctype html><p>")
    check_html(page, option="--out")
    other = tmp_path / "run.json"
    other.write_text("{}")
    with pytest.raises(ConfigError, match="is not an HTML page"):
        check_html(other, option="--out")
    with pytest.raises(ConfigError, match="is a folder"):
        check_html(tmp_path, option="--out")
