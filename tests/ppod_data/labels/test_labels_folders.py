"""Winners and losers in two folders, matched by the names of their files."""

from pathlib import Path

import pytest

from ppod_data.labels.answers import Comparison
from ppod_data.labels.formats.folders import image_files, parse, records
from tests.support.foreign_cases import picture


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("winner", "loser", "caption"),
    [
        ("0001.png", "0001.PNG", "winners/0001.txt"),
        ("0001.JPG", "0001.jpg", "losers/0001.TXT"),
        ("0001.png", "0001.JPEG", "losers/0001.txt"),
        ("more/0001.Png", "more/0001.WebP", "winners/more/0001.Txt"),
        ("0001.v2.PNG", "0001.v2.jpg", "winners/0001.v2.txt"),
    ],
)
def test_suffixes_in_any_case_are_of_one_pair(tmp_path: Path, winner: str, loser: str, caption: str) -> None:
    won, lost = picture(1, kind="PNG"), picture(2)
    chosen = write(tmp_path / "winners" / winner, won)
    write(tmp_path / "losers" / loser, lost)
    write(tmp_path / caption, b"a cat\n")
    assert image_files(tmp_path) == [chosen]
    (record,) = records(chosen)
    assert record.problem is None
    (answer,) = parse(record)
    assert isinstance(answer, Comparison)
    assert (answer.prompt, answer.a.data, answer.b.data, answer.label) == ("a cat", won, lost, 1.0)


def test_the_same_suffix_is_preferred_to_another_case_and_that_to_another_format(tmp_path: Path) -> None:
    chosen = write(tmp_path / "winners" / "a.PNG", picture(1, kind="PNG"))
    write(tmp_path / "winners" / "a.txt", b"a cat")
    for number, name in enumerate(("a.jpg", "a.png", "a.PNG"), 2):
        data = write(tmp_path / "losers" / name, picture(number)).read_bytes()
        (answer,) = (answer for record in records(chosen) for answer in parse(record))
        assert isinstance(answer, Comparison) and answer.b.data == data
