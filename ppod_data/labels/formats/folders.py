"""Two folders of images, winners and losers, with captions in text files.

    FOLDER/winners/0001.png   the preferred image
    FOLDER/winners/0001.txt   its caption: the prompt of both images
    FOLDER/losers/0001.JPG    the other image, of the same name but for the suffix

Captions may be beside the losers instead. Subfolders of the same names on both sides are read too, hidden ones are not.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from ppod_data.errors import ConfigError
from ppod_data.labels.answers import (
    Answer,
    Bad,
    BadRowError,
    Comparison,
    Record,
    fields,
    image,
    need,
    text,
)
from ppod_data.labels.files.records import visible_files
from ppod_data.labels.matching import read_image

_WINNERS = ("winners", "winner", "chosen", "preferred")
_LOSERS = ("losers", "loser", "rejected")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_MAX_CAPTION = 1 << 20


def _spellings(*suffixes: str) -> tuple[str, ...]:
    """Return suffixes in every case, the usual ones first: file systems tell .png and .PNG apart."""
    mixed = (
        "".join(letters)
        for suffix in suffixes
        for letters in itertools.product(*zip(suffix, suffix.upper(), strict=True))
    )
    return tuple(dict.fromkeys((*suffixes, *(suffix.upper() for suffix in suffixes), *mixed)))


_IMAGE_SPELLINGS, _CAPTION_SPELLINGS = _spellings(*_SUFFIXES), _spellings(".txt")


def image_files(path: Path) -> list[Path]:
    """Return every winner, and every loser that has no winner, sorted: a record for each.

    Raises:
        ConfigError: the folder has not one folder of winners and one of losers, or no images.
    """
    winners, losers = _side(path, _WINNERS), _side(path, _LOSERS)
    found = [*_images(winners), *(file for file in _images(losers) if _other(file, losers, winners) is None)]
    if not found:
        raise ConfigError(f"{path}: no images in {winners.name} and {losers.name} ({', '.join(_SUFFIXES)})")
    return sorted(found)


def records(file: Path) -> Iterator[Record]:
    """Yield the record of one of `image_files`: a pair of images and its caption, or why there is none."""
    side = next(parent for parent in file.parents if parent.name in (*_WINNERS, *_LOSERS))
    name = file.relative_to(side.parent).as_posix()
    if side.name in _LOSERS:
        yield Record(None, name, 1, problem=Bad("no winner of this name"))
        return
    losers = _side(side.parent, _LOSERS)
    loser = _other(file, side, losers)
    if loser is None:
        yield Record(None, name, 1, problem=Bad(f"no image of this name in {losers.name}"))
        return
    try:
        images = {
            side: {"path": path.name, "bytes": read_image(path)}
            for side, path in (("winner", file), ("loser", loser))
        }
        yield Record({"prompt": _caption(file, loser), **images}, name, 1)
    except BadRowError as error:
        yield Record(None, name, 1, problem=Bad(str(error)))


def parse(record: Record) -> Iterator[Answer]:
    """Yield the comparison of a pair."""
    row = fields(record)
    winner, loser = (image(side, need(row, side)) for side in ("winner", "loser"))
    yield Comparison(prompt=text(need(row, "prompt"), "prompt"), a=winner, b=loser, label=1.0)


def _side(path: Path, names: tuple[str, ...]) -> Path:
    found = [path / name for name in names if (path / name).is_dir()]
    if len(found) != 1:
        raise ConfigError(f"{path}: needs one folder {' or '.join(names)}, and has {len(found)}")
    return found[0]


def _images(side: Path) -> list[Path]:
    return [file for file in visible_files(side) if file.suffix.lower() in _SUFFIXES]


def _other(file: Path, side: Path, other: Path) -> Path | None:
    """Return the image of the same name on the other side, of any suffix."""
    stem = other / file.relative_to(side).with_suffix("")
    return _first_file(stem, (file.suffix, *_IMAGE_SPELLINGS))


def _first_file(stem: Path, suffixes: Sequence[str]) -> Path | None:
    """Return the first file that is named `stem` with one of the suffixes. A listing of the folder is not needed."""
    paths = (stem.with_name(stem.name + suffix) for suffix in suffixes)
    return next((path for path in paths if path.is_file()), None)


def _caption(winner: Path, loser: Path) -> str:
    """Return the text beside either image. Raises BadRowError if there is none, or two that differ."""
    files = [_first_file(file.with_suffix(""), _CAPTION_SPELLINGS) for file in (winner, loser)]
    try:
        texts = {
            caption
            for file in files
            if file is not None and file.stat().st_size <= _MAX_CAPTION
            if (caption := file.read_text(encoding="utf-8-sig").strip())
        }
    except (OSError, UnicodeDecodeError) as error:
        raise BadRowError(f"its caption cannot be read: {error}") from error
    if len(texts) != 1:
        raise BadRowError(
            f"no caption: write the prompt into {winner.stem}.txt" if not texts else "two captions"
        )
    return texts.pop()
