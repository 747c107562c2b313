"""torch's DataLoader over trajectories: exact resume, the same items for any ranks and workers."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load
from torch.utils.data import DataLoader

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.torch_loader import Steps, Trajectories, positions_of_step
from ppod_data.errors import ConfigError, DamagedError
from tests.support.toy import flip, make_dataset, make_sample

DOC = (Path(__file__).parents[3] / "docs" / "loading.md").read_text("utf-8")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("loading") / "data")


def test_an_item_is_what_was_stored(dataset: Dataset) -> None:
    trajectories = Trajectories(dataset)
    assert len(trajectories) == 6
    for n in range(6):
        item, sample = trajectories[n], make_sample(dataset.spec, n)
        assert (item["sample_id"], item["prompt"]) == (sample.sample_id, sample.prompt)
        assert torch.equal(item["latents"], load(sample.latents_safetensors)["latents"])
        assert item["timesteps"].tolist() == sample.timesteps
        assert item["log_probs"].tolist()[:3] == sample.log_probs[:3] and math.isnan(item["log_probs"][3])
        assert item["latent_index"].tolist() == [0, 1, 2, 3, 4]


def test_some_samples_in_the_order_asked_for(dataset: Dataset) -> None:
    wanted = [make_sample(dataset.spec, n).sample_id for n in (4, 0, 4)]
    trajectories = Trajectories(dataset, wanted)
    assert [trajectories[i]["sample_id"] for i in range(len(trajectories))] == wanted
    for outside in (-1, 3):
        with pytest.raises(IndexError):
            trajectories[outside]


@given(total=st.integers(1, 40), count=st.integers(1, 20), seed=st.integers(0, 9))
def test_every_epoch_is_a_permutation(total: int, count: int, seed: int) -> None:
    """Also where steps span the border of two."""
    steps = math.ceil(3 * total / count)
    drawn = [
        int(i) for step in range(steps) for i in positions_of_step(total, step=step, count=count, seed=seed)
    ]
    for epoch in range(3):
        assert sorted(drawn[epoch * total : (epoch + 1) * total]) == list(range(total))


def batches(dataset: Dataset, workers: int, **options: Any) -> list[list[str]]:
    trajectories = Trajectories(dataset)
    steps = Steps(len(trajectories), batch_size=4, seed=3, last_step=5, **options)
    return [
        list(batch["sample_id"])
        for batch in DataLoader(trajectories, batch_sampler=steps, num_workers=workers)
    ]


def test_resuming_at_every_step_with_other_workers_gives_what_was_still_to_come(dataset: Dataset) -> None:
    whole = batches(dataset, 0)
    assert len(whole) == 5 and all(len(batch) == 4 for batch in whole)
    assert batches(dataset, 2) == whole
    for first in range(6):
        assert batches(dataset, 0, first_step=first) == whole[first:]
    assert batches(dataset, 2, first_step=3) == whole[3:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_items_of_a_step(dataset: Dataset, world_size: int) -> None:
    whole = batches(dataset, 0)
    parts = [batches(dataset, 0, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        assert [part[step] for part in parts] == [batch[rank::world_size] for rank in range(world_size)]


def test_a_run_may_change_its_ranks_on_the_way(dataset: Dataset) -> None:
    whole = batches(dataset, 0)
    later = [batches(dataset, 0, first_step=2, rank=rank, world_size=2) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*later, strict=True)] == [sorted(batch) for batch in whole[2:]]


def test_damage_is_named_by_a_worker(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    tar = sorted((dataset.root / "trajectories").iterdir())[0]
    flip(
        tar,
        dataset.trajectory_index([make_sample(dataset.spec, 0).sample_id])["traj_offset"][0].as_py() + 200,
    )
    trajectories = Trajectories(dataset)
    steps = Steps(6, batch_size=6, last_step=1)
    with pytest.raises(DamagedError, match=tar.name):
        list(DataLoader(trajectories, batch_sampler=steps, num_workers=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total": 0, "batch_size": 1}, "both must be at least 1"),
        ({"total": 3, "batch_size": 0}, "both must be at least 1"),
        ({"total": 3, "batch_size": 3, "world_size": 2}, "multiple of the number of ranks"),
        ({"total": 3, "batch_size": 2, "rank": 2, "world_size": 2}, "rank 2 of 2"),
    ],
)
def test_batches_that_cannot_be(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Steps(**options)


def test_the_example_of_the_page_runs(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").symlink_to(dataset.root)
    monkeypatch.chdir(tmp_path)
    values: dict[str, Any] = {}
    exec(DOC.split("```python\n")[1].split("```")[0], values)
    assert values["step"] == 9
    assert values["latents"].shape == (4, 5, 4, 2, 3) and values["log_probs"].shape == (4, 4)
