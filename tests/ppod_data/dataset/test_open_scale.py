"""Opening a data set costs one listing and the files that are asked for, whatever the number of its shards."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.inspect.overview import overview
from tests.support.big import open_shards

_calls: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _calls is not None and event in ("open", "os.listdir", "os.scandir"):
        _calls.append(event)


sys.addaudithook(_hook)


def calls_of_opening(root: Path, shards: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every open, listing and os.stat of opening, counting, describing, and finding the samples of some shards."""
    global _calls
    with monkeypatch.context() as patch:
        for name in ("stat", "lstat"):
            real = getattr(os, name)
            patch.setattr(
                os,
                name,
                lambda *args, real=real, **options: (
                    (_calls.append("stat") if _calls is not None else None),
                    real(*args, **options),
                )[1],
            )
        _calls = []
        dataset = Dataset.open(root)
        assert dataset.num_samples == dataset.spec.num_samples and dataset.missing_shards() == []
        figures = overview(dataset)
        assert figures["num_samples"] == dataset.spec.num_samples
        ids = [dataset.spec.sample_id(dataset.spec.prompt_ids[0], shard) for shard in shards]
        assert dataset.trajectory_index(ids)["sample_id"].to_pylist() == ids
        found, _calls = _calls, None
    return found


def check(tmp_path: Path, few: int, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = (0, few // 2, few - 1)
    counts = []
    for number in (few, many):
        root = open_shards(tmp_path / str(number), number, shards).root
        counts.append(calls_of_opening(root, shards, monkeypatch))
    assert sorted(counts[0]) == sorted(counts[1])
    assert len(counts[0]) < 60


def test_opening_does_not_touch_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(tmp_path, 10, 500, monkeypatch)


@pytest.mark.slow
def test_opening_a_hundred_thousand_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(tmp_path, 10, 100_000, monkeypatch)
