"""Files are made, renamed and removed in one place: elsewhere a link of a stranger would be followed."""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DANGEROUS = {
    *("unlink", "rmdir", "rmtree", "mkdir", "makedirs", "removedirs", "renames", "rename", "symlink_to"),
    *("write_text", "write_bytes", "touch", "hardlink_to", "truncate", "copytree", "copyfile", "move"),
}
ALLOWED = {
    "ppod_data/storage/real_folders.py": DANGEROUS,
    "ppod_data/storage/files.py": {
        "unlink",
        "touch",
        "write_bytes",
    },  # names in a folder that is open, and temporary files
    "ppod_data/storage/object_store.py": {"unlink", "makedirs"},  # objects have no links
    "ppod_data/scenes/training/package.py": DANGEROUS,  # the repository's own weights
    "ppod_data/scenes/training/train.py": {"write_text"},
}
"""Calls by file."""
NEW_FOLDERS = {
    # what was just made in a temporary or new folder, and the user's own folders
    "ppod_data/storage/cache.py": {"mkdir", "unlink", "write_bytes"},
    "ppod_data/labels/export/export.py": {"rmtree"},
    "ppod_data/labels/secret.py": {"mkdir"},
    "ppod_data/labels/export/formats.py": {"mkdir", "write_bytes", "write_text"},
    "ppod_data/labels/foreign.py": {"rmdir"},
    "ppod_data/publish/transfer.py": {"write_bytes"},
    "ppod_train/run/checkpoint.py": {"write_bytes"},
    "ppod_train/run/exclusive.py": {"rmdir"},
    "ppod_train/online/online.py": {"copytree"},
}


def calls(path: Path) -> set[str]:
    """The names of dangerous methods and functions that a module calls, but for those of `real_folders`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {func.attr for func in found if isinstance(func, ast.Attribute)} & DANGEROUS


def test_no_module_writes_or_removes_but_through_files_and_real_folders() -> None:
    wrong = {}
    for package in ("ppod_data", "ppod_train", "cli/ppod_cli"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            name = path.relative_to(REPOSITORY).as_posix()
            allowed = ALLOWED.get(name, set()) | NEW_FOLDERS.get(name, set())
            if found := calls(path) - allowed:
                wrong[name] = sorted(found)
    assert wrong == {}, "use ppod_data.storage.files (atomic_write, remove) or ppod_data.storage.real_folders"


def test_every_exemption_is_needed() -> None:
    for name, allowed in NEW_FOLDERS.items():
        assert allowed <= calls(REPOSITORY / name), name
