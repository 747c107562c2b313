"""Rewards on servers of Flow-Factory's and UniRL's protocols: real servers on the loopback, and ones that misbehave."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ppod_data.errors import ConfigError, RewardError, RewardUnavailableError
from ppod_data.rewards import RewardModel, check_reward_name, load_reward
from ppod_data.rewards.numbers import NoScore
from ppod_data.rewards.servers.addresses import parse_address
from ppod_data.rewards.servers.flow_factory import connect_flow_factory
from ppod_data.rewards.servers.http_client import Patience
from ppod_data.rewards.servers.unirl import connect_unirl
from ppod_data.scoring.score import score
from tests.ppod_data.rewards.test_rewards_remote import answering, say
from tests.support.reward_servers import BAD, Running, serving
from tests.support.toy import make_dataset

QUICK = Patience(attempts=3, pause=0.01, connect=5, answer=5)
GREYS = [Image.new("RGB", (16, 16), (level, level, level)) for level in range(0, 240, 6)]
SCORES = [0.02 + 0.96 * level / 255 for level in range(0, 240, 6)]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


def connect(reward: str, patience: Patience = QUICK) -> RewardModel:
    address = parse_address(reward)
    if address.protocol == "unirl":
        return connect_unirl(address, patience)
    return connect_flow_factory(address, patience)


@pytest.mark.parametrize(
    ("reward", "name", "revision"),
    [
        ("flow-factory:{}#hpsv3", "hpsv3", "flow-factory, version not reported"),
        ("unirl:{}#bright", "bright", "unirl bright, version not reported"),
        ("unirl:{}#two/light", "two-light", "unirl two/light, version not reported"),
    ],
)
def test_forty_images_are_scored_in_order(server: Running, reward: str, name: str, revision: str) -> None:
    model = load_reward(reward.format(server.url))
    assert (model.name, model.revision) == (name, revision)
    assert model.score(["a"] * 40, GREYS) == pytest.approx(SCORES)
    assert model.score([], []) == []


def test_one_of_several_numbers_must_be_named(server: Running) -> None:
    with pytest.raises(
        RewardError, match=r"two of .* returns light, dark: give one of them, unirl:.*#two/NUMBER"
    ):
        load_reward(f"unirl:{server.url}#two").score(["a"], GREYS[:1])


@pytest.mark.parametrize(
    ("reward", "reason"),
    [
        ("flow-factory:{}#x", "the server failed: .*cannot read this prompt"),
        ("unirl:{}#bright", "RuntimeError.*out of memory"),
    ],
)
def test_an_image_that_the_server_cannot_score_is_marked_alone(
    server: Running, reward: str, reason: str, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path / "data", prompts=("good", BAD))
    done = score(dataset, load_reward(reward.format(server.url)), name="theirs", batch_size=4)
    assert (done.num_scored, done.num_failed) == (3, 3)
    rows = dataset.scores("theirs").to_pylist()
    assert [row["status"] == "ok" for row in rows] == [True] * 3 + [False] * 3
    assert re.search(reason, str(done.first_failure))


def test_a_reward_that_fails_for_every_image_stops_at_the_first_batch(
    server: Running, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path / "data", num_images_per_prompt=8, images_per_shard=16)
    with pytest.raises(RewardError, match=r"broken could score none of the first 16 images .*out of memory"):
        score(dataset, load_reward(f"unirl:{server.url}#broken"), name="theirs")


def test_an_unknown_reward_lists_the_service_s(server: Running) -> None:
    with pytest.raises(ConfigError, match="has no reward 'hpsv9': it has bright, two, broken"):
        load_reward(f"unirl:{server.url}#hpsv9")


@pytest.mark.parametrize("reward", ["flow-factory:{}#x", "unirl:{}#bright"])
def test_a_server_that_is_killed_marks_nothing(reward: str, tmp_path: Path) -> None:
    with serving() as running:
        model = connect(reward.format(running.url))
    dataset = make_dataset(tmp_path / "data")
    with pytest.raises(
        RewardUnavailableError, match=r"did not respond in 3 attempts .*start the server again"
    ):
        score(dataset, model, name="theirs")
    assert not (dataset.root / "scores").exists()


@pytest.mark.parametrize("reward", ["flow-factory:{}#x", "unirl:{}#bright"])
def test_a_slow_server_is_given_up(reward: str) -> None:
    def never(number: int, handler: Any) -> None:
        if handler.command == "GET":
            say(handler, json.dumps({"status": "ok", "rewards": ["bright"]}).encode())

    with answering(never) as url:
        model = connect(reward.format(url), Patience(2, 0.01, 5, 0.05))
        with pytest.raises(RewardUnavailableError, match=r"2 attempts"):
            model.score(["a"], GREYS[:1])


@pytest.mark.parametrize("reward", ["flow-factory:{}#x", "unirl:{}#bright"])
@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"rewards": ["1"], "results": [{"bright": {"bright": "1"}}]}',
        b'{"rewards": [1, 2], "results": [{}, {}]}',
        b'{"rewards": [true], "results": [{"bright": {"bright": null}}]}',
    ],
)
def test_nonsense_is_no_score(reward: str, body: bytes) -> None:
    def answer(number: int, handler: Any) -> None:
        say(handler, b'{"rewards": ["bright"]}' if handler.command == "GET" else body)

    with answering(answer) as url, pytest.raises(RewardUnavailableError):
        connect(reward.format(url)).score(["a"], GREYS[:1])


@pytest.mark.parametrize("reward", ["flow-factory:{}#x", "unirl:{}#bright"])
def test_nan_has_a_reason(reward: str) -> None:
    def answer(number: int, handler: Any) -> None:
        body = b'{"rewards": [NaN], "results": [{"bright": {"bright": NaN}}]}'
        say(handler, b'{"rewards": ["bright"]}' if handler.command == "GET" else body)

    with answering(answer) as url:
        assert connect(reward.format(url)).score(["a"], GREYS[:1]) == [
            NoScore("the score is nan", is_declined=False)
        ]


@pytest.mark.parametrize("reward", ["flow-grpo:http://127.0.0.1:8000", "verl-omni:http://127.0.0.1:8000#x"])
def test_pickles_are_refused_by_name(reward: str) -> None:
    with pytest.raises(ConfigError, match=r"servers exchange pickles, with which each side can run code"):
        check_reward_name(reward)
