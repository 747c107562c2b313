"""What a stranger may leave in a data set's folder besides damage: links, stray parts, odd names, pipes.

Each intrusion happens to a copy of a data set, and then one command runs in it. Nothing outside the folder may change,
and what our readers give afterwards is an error or what the data set without the intrusion would give.
"""

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ppod_data.errors import PpodError
from tests.support.toy import files

Intrusion = Callable[[Path, Path, random.Random], str]
"""(data set, folder of the victim, chooser) -> the name of what was put there."""


def _linked_folder(root: Path, victim: Path, chooser: random.Random) -> str:
    folder = chooser.choice([path for path in sorted(root.rglob("*")) if path.is_dir()])
    name = folder.relative_to(root).as_posix()
    shutil.copytree(folder, victim, dirs_exist_ok=True)
    shutil.rmtree(folder)
    folder.symlink_to(victim)
    return name


def _linked_file(root: Path, victim: Path, chooser: random.Random) -> str:
    path = _any_file(root, chooser)
    shutil.copy(path, victim / path.name)
    path.unlink()
    path.symlink_to(victim / path.name)
    return path.relative_to(root).as_posix()


def _stray_link(root: Path, victim: Path, chooser: random.Random) -> str:
    path = _any_file(root, chooser).with_name(f"extra{chooser.randrange(100)}.txt")
    path.symlink_to(victim / "mine.txt")
    return path.relative_to(root).as_posix()


def _stray_part(root: Path, victim: Path, chooser: random.Random) -> str:
    parts = [path for path in sorted(root.rglob("*.parquet")) if path.stem.isdigit()]
    part = chooser.choice(parts)
    name = chooser.choice([f"{part.stem} (copy)", f"0{part.stem}", "000099", f"{part.stem}.old", "backup"])
    shutil.copy(part, part.with_name(f"{name}.parquet"))
    return part.with_name(f"{name}.parquet").relative_to(root).as_posix()


def _odd_table(root: Path, victim: Path, chooser: random.Random) -> str:
    name = chooser.choice(["a b", "a\x1b[31m<b>", "x" * 120, "ü", "-rf", "~", "..x"])
    kind = chooser.choice(["labels", "pairs", "scores", "log_probs"])
    if kind in ("labels", "pairs"):
        shutil.copy(root / kind / "people.parquet", root / kind / f"{name}.parquet")
    else:
        shutil.copytree(
            next(path for path in sorted((root / kind).iterdir()) if path.is_dir()), root / kind / name
        )
    return f"{kind}/{name}"


def _pipe(root: Path, victim: Path, chooser: random.Random) -> str:
    path = _any_file(root, chooser)
    path.unlink()
    os.mkfifo(path)
    return path.relative_to(root).as_posix()


def _any_file(root: Path, chooser: random.Random) -> Path:
    return chooser.choice(
        [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".salt"]
    )


INTRUSIONS: Mapping[str, Intrusion] = {
    "folder is a link": _linked_folder,
    "file is a link": _linked_file,
    "stray link": _stray_link,
    "stray part": _stray_part,
    "odd name": _odd_table,
    "pipe": _pipe,
}


def outcome(
    kind: str,
    work: Callable[[Path], None],
    start: Path,
    place: Path,
    chooser: random.Random,
    read: Callable[[Path], Any],
) -> str:
    """ "outside" where something outside the folder changed, "undetected" where readers give other values than before
    without an error, else "harmless". `place` is made and removed.
    """
    root, victim = place / "data", place / "victim"
    shutil.copytree(start, root)
    victim.mkdir()
    (victim / "mine.txt").write_text("mine")
    whole = read(root)
    INTRUSIONS[kind](root, victim, chooser)
    before = files(victim)
    try:
        with contextlib.suppress(PpodError, OSError):
            if read(root) != whole:
                return "undetected"
        with contextlib.suppress(PpodError, OSError):
            work(root)
        return "harmless" if files(victim) == before else "outside"
    finally:
        shutil.rmtree(place)
