"""Damage anywhere is found: every flipped bit and every cut, in every kind of file. `make torture` does more of it."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import PpodError
from ppod_data.inspect.card import write_card
from ppod_data.integrity.purge import purge
from ppod_data.integrity.seal import seal
from ppod_data.integrity.verify import verify
from ppod_data.pairs.rank import rank
from ppod_data.scoring.score import score
from tests.support.damage import Brightness, everything, inject, kinds, make_whole
from tests.support.intrusions import INTRUSIONS, outcome


def test_every_kind_of_file_is_damaged(tmp_path: Path) -> None:
    expected = {
        "ppod.json",
        "exclusions.jsonl",
        "samples",
        "trajectories",
        "scores",
        "log_probs",
        "labels",
        "pairs",
        "seals",
    }
    assert set(kinds(make_whole(tmp_path / "data", sealed=True).root)) == expected
    assert set(kinds(make_whole(tmp_path / "open", sealed=False).root)) == expected - {"seals"}


def test_verify_finds_every_damage_of_a_sealed_data_set_and_names_the_file(tmp_path: Path) -> None:
    root = make_whole(tmp_path / "data", sealed=True).root
    assert verify(root, read_data=1).findings == []
    chooser = random.Random(0)
    for _ in range(100):
        with inject(root, chooser) as damage:
            files = [finding.file for finding in verify(root, read_data=1).of("damaged")]
            assert damage.path.relative_to(root).as_posix() in files, damage.how
    assert verify(root, read_data=1).findings == []


def test_readers_find_every_damage_that_reaches_a_value_without_any_seal(tmp_path: Path) -> None:
    """Either an error that names the file, or exactly the values that were written."""
    root = make_whole(tmp_path / "data", sealed=False).root
    whole = everything(root)
    chooser = random.Random(1)
    found = 0
    for _ in range(100):
        with inject(root, chooser) as damage:
            try:
                assert everything(root) == whole, (damage.path, damage.how)
            except PpodError as error:
                assert damage.path.name in str(error)
                found += 1
    assert found > 60


@pytest.mark.parametrize("kind", INTRUSIONS)
def test_what_a_stranger_left_changes_nothing_outside_and_no_value(tmp_path: Path, kind: str) -> None:
    start = make_whole(tmp_path / "start", sealed=True).root
    assert isinstance(start, Path)
    works: dict[str, Callable[[Path], object]] = {
        "score": lambda root: score(Dataset.open(root), Brightness(), name="other"),
        "rank": lambda root: rank(Dataset.open(root), reward="brightness", name="other"),
        "purge": lambda root: purge(Dataset.open(root)),
        "seal": seal,
        "card": write_card,
    }
    chooser = random.Random(kind)
    for number in range(12):
        work = works[chooser.choice(sorted(works))]
        told = outcome(
            kind, lambda root, work=work: work(root), start, tmp_path / f"{number}", chooser, everything
        )
        assert told == "harmless", number


@pytest.mark.parametrize("kind", ["samples", "scores", "labels", "pairs", "log_probs"])
def test_every_single_bit_of_a_table_s_footer_counts(tmp_path: Path, kind: str) -> None:
    """Parquet's own checksums leave the footer and the pages' headers out: flips there lost rows without an error."""
    root = make_whole(tmp_path / "data", sealed=False).root
    path = kinds(root)[kind][0]
    whole = path.read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    chooser = random.Random(2)
    for place in sorted(chooser.sample(range(start, len(whole)), 40)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chooser.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(PpodError, match=path.name):
            everything(root)
