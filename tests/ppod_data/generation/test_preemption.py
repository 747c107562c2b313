"""However workers are killed, doubled and put to sleep: the bytes of one undisturbed worker, at the price of chance."""

import math
from pathlib import Path
from typing import Any

import pytest

from ppod_data.dataset.dataset import create
from ppod_data.format.shards import ShardWriter, active_shards
from ppod_data.generation.generate import free_first
from tests.support.faults import visible
from tests.support.preemption import Folder, Memory, Outcome, Weather, in_turn, shuffled, simulate, stepwise
from tests.support.toy import make_dataset, make_sample, make_spec

NUM_SHARDS = 40
SMALL = {"prompts": ("a cat",), "num_images_per_prompt": 2 * NUM_SHARDS, "images_per_shard": 2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one worker makes."""
    root = tmp_path_factory.mktemp("one") / "data"
    make_dataset(root, **SMALL)
    return visible(root)


@pytest.mark.parametrize("share", ["ranks", "driver", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_any_schedule_ends_in_the_bytes_of_one_worker(
    undisturbed: dict[str, str], share: str, seed: int, tmp_path: Path
) -> None:
    """A third of the shards lose their worker, a fifth are doubled by one that wakes up late, half of those with other
    bytes."""
    spec = make_spec(**SMALL)
    create(tmp_path, spec)
    store = Folder(tmp_path, spec)
    weather = Weather(num_workers=10, share=share, kill_rate=0.5, straggling=0.2)
    with stepwise():
        outcome = simulate(spec, store, weather, seed)
    assert visible(tmp_path) == undisturbed
    assert outcome.kills > 0
    assert outcome.sleeps > 0 and outcome.twice > 0


def test_the_schedules_meet_every_step_of_a_commit_and_other_bytes(tmp_path: Path) -> None:
    """What the test above went through, together: otherwise it would hold little."""
    spec = make_spec(**SMALL)
    kills, num_other = set(), 0
    for seed in range(5):
        root = tmp_path / str(seed)
        create(root, spec)
        store = Folder(root, spec)
        with stepwise():
            simulate(spec, store, Weather(num_workers=10, kill_rate=2.0, straggling=0.2), seed)
        kills |= set(store.kills)
        num_other += store.num_other
    assert kills == {"a sample", "fsync", "replace", "link", "unlink"}
    assert num_other > 5


def in_memory(num_workers: int, num_shards: int, seed: int, **weather: Any) -> Outcome:
    spec = make_spec(prompts=("a cat",), num_images_per_prompt=4 * num_shards, images_per_shard=4)
    return simulate(spec, Memory(4), Weather(num_workers=num_workers, **weather), seed)


@pytest.mark.parametrize("kill_rate", [0.0, 0.1, 0.5, 1.0])
def test_what_kills_cost_is_the_closed_form(kill_rate: float) -> None:
    """A shard of length 1 that starts again at every kill of rate k takes (e^k - 1) / k of work."""
    work = math.expm1(kill_rate) / kill_rate if kill_rate else 1.0
    outcome = in_memory(100, 4000, 0, kill_rate=kill_rate, straggling=0.0, spread=0.0)
    assert outcome.computed / outcome.needed == pytest.approx(work, rel=0.02)
    assert outcome.twice == 0


def test_workers_without_a_share_spread_over_the_shards() -> None:
    """All in the same order, they make every shard as often as there are workers."""
    twice = {
        order: in_memory(25, 500, 0, share="none", order=order).twice / 500
        for order in (free_first, shuffled, in_turn)
    }
    assert twice[free_first] < 0.25 < twice[in_turn] / 25
    assert twice[free_first] < twice[shuffled] < twice[in_turn]


def test_a_shard_in_the_hands_of_a_living_process_comes_last(tmp_path: Path) -> None:
    spec = make_spec(**SMALL)
    create(tmp_path, spec)

    def in_hand() -> list[int]:
        return [shard for shard in range(4) if active_shards(tmp_path)(shard)]

    assert in_hand() == []
    with ShardWriter(tmp_path, 1) as writer:
        assert in_hand() == [1]
        order = free_first(range(4), lambda shard: False, lambda: active_shards(tmp_path))
        assert list(order) == [0, 2, 3, 1]
        for index in spec.shard_range(1):
            writer.add(make_sample(spec, index))
    assert in_hand() == []
    (tmp_path / "trajectories" / ".000003.tar.tmp-1-00000000").touch()  # its process was killed
    assert in_hand() == []
