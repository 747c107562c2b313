"""Folders of a run appear and go whole, and only what ppod left is removed."""

from pathlib import Path

import pytest

from ppod_data.storage.folders import new_folder, remove_folder
from ppod_train.run.exclusive import remove_leftovers


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_takes_the_old_ones_place(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with new_folder(tmp_path / "policy") as temporary:
            (temporary / text).write_text(text)
            assert names(tmp_path) == sorted({".policy.tmp", *(["policy"] if text == "new" else [])})
    assert names(tmp_path) == ["policy"] and names(tmp_path / "policy") == ["new"]


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    with new_folder(tmp_path / "policy") as temporary:
        (temporary / "old").write_text("old")
    with pytest.raises(OSError, match="full"), new_folder(tmp_path / "policy") as temporary:
        (temporary / "new").write_text("new")
        raise OSError("full")
    assert names(tmp_path) == ["policy"] and names(tmp_path / "policy") == ["old"]


def test_leftovers_go_and_what_others_hid_stays(tmp_path: Path) -> None:
    """A run may be in a folder that holds more: --out . for example."""
    mine = [".policy.tmp", ".policy.old", "checkpoints/.step-000002.tmp", "evals/.step-000040.old"]
    others = [".git", ".cache.tmp", "policy/.keep", "checkpoints/step-000002"]
    for name in (*mine, *others):
        (tmp_path / name / "inner").mkdir(parents=True)
    (tmp_path / "policy" / ".README.md.tmp-12-0123abcd").write_text("half")
    remove_leftovers(tmp_path)
    assert [name for name in mine if (tmp_path / name).exists()] == []
    assert all((tmp_path / name / "inner").exists() for name in others)
    assert names(tmp_path / "policy") == [".keep"]


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    remove_folder(tmp_path / "step-000001")
    remove_leftovers(tmp_path / "nowhere")
    assert names(tmp_path) == ["kept"]
