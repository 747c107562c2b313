"""Which rewards `auto` leaves to one process."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from ppod_data.cluster.adaptive import score_adaptively
from ppod_data.cluster.jobs import ScoreJob
from ppod_data.cluster.local_processes import LocalProcesses
from ppod_data.scoring.rows import ShardRows
from ppod_data.support.progress import SILENT


@pytest.mark.parametrize(
    ("reward", "calls"),
    [
        ("clip", [[0], [1, 2]]),
        ("my_rewards.py:http", [[0], [1, 2]]),
        ("http://127.0.0.1:8000", [[0, 1, 2]]),
        ("https://rewards.example", [[0, 1, 2]]),
        ("openai:http://127.0.0.1:8000/v1#m", [[0, 1, 2]]),
        ("openai:judge.toml", [[0, 1, 2]]),
        ("flow-factory:http://127.0.0.1:8000#NAME", [[0, 1, 2]]),
        ("unirl:http://127.0.0.1:8080#REWARD", [[0, 1, 2]]),
    ],
)
def test_a_reward_on_a_server_is_asked_by_one_process(reward: str, calls: list[list[int]]) -> None:
    """A reward of this machine is measured on the first shard; the server's work is not this machine's."""
    job = ScoreJob(
        root=Path("data"),
        fingerprint="",
        rewards=(("clip", "clip", ""), ("table", reward, "")),
        batch_size=1,
        retry_failed=False,
    )
    seen: list[list[int]] = []

    def here(shards: Iterable[int]) -> Iterator[tuple[int, list[ShardRows]]]:
        seen.append(list(shards))
        yield from ((shard, []) for shard in seen[-1])

    done = score_adaptively(job, LocalProcesses(device="cpu"), SILENT)([0, 1, 2], here)
    assert [shard for shard, _ in done] == [0, 1, 2]
    assert seen == calls
