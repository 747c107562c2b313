"""Pairs that make no sense are damage to `verify`, and refused by training: by the same function."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import DamagedError
from ppod_data.integrity.verify import verify
from ppod_train.data.pairs import read_pairs
from tests.support.tables import add_pairs
from tests.support.toy import make_dataset

Make = Callable[[Dataset], None]


def pairs(*numbers: tuple[int, int], **values: Any) -> Make:
    return lambda dataset: add_pairs(dataset, "p", numbers, **values)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (pairs((0, 1), (0, 3)), ": the two samples are not both of its prompt"),
        (pairs((0, 1), (2, 2)), "compares a sample with itself"),
        (pairs((0, 1), label=7.0), "has the label 7.0"),
        (pairs((0, 1), label=-3.0), "has the label -3.0"),
        (pairs((0, 1), label=math.nan), "has the label nan"),
        (pairs((0, 1), label=None), "has the label None"),
        (pairs((0, 1), margin=math.inf), "has the margin inf"),
        (pairs((0, 1), margin=math.nan), "has the margin nan"),
        (pairs((0, 1), prompt_id="f" * 32), ": the two samples are not both of its prompt"),
        (pairs((0, 1), prompt_id=None), ": the two samples are not both of its prompt"),
        (pairs((0, 1), (1, 2), (0, 1)), "repeat another pair"),
        (pairs((0, 1), (1, 0)), "repeat another pair"),
    ],
)
def test_a_pair_that_makes_no_sense_is_damage_and_not_trained_on(
    make: Make, problem: str, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path)
    make(dataset)
    found = verify(dataset.root).of("damaged")
    assert {one.file for one in found} == {"pairs/p.parquet"}
    assert problem in found[0].problem
    with pytest.raises(DamagedError, match=r"pairs/p\.parquet") as refused:
        read_pairs(dataset, "p")
    assert problem in str(refused.value)


def test_pairs_that_make_sense_pass_both(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    add_pairs(dataset, "p", [(0, 1), (2, 1), (0, 2), (4, 3)], label=0.25, margin=None)
    assert not verify(dataset.root).findings
    assert len(read_pairs(dataset, "p")[1].labels) == 4
