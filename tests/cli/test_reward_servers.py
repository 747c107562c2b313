"""Rewards on servers, from scores to a policy, while the servers are killed, slow, hung, or answer nonsense."""

import json
import re
import shlex
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ppod_cli import score, train

from ppod_data.dataset.dataset import Dataset
from ppod_data.rewards.servers import http_client
from tests.cli.conftest import Made
from tests.support.command import Result, call, following, ran
from tests.support.reward_servers import Running, serving, start

pytestmark = pytest.mark.long

TRAIN = ("--num-train-steps", 2, "--pairs-per-step", 1, "--eval-images-per-prompt", 2)
OFTEN = ("--eval-every", 1, "--checkpoint-every", 1, "--num-processes", 1)
NONSENSE = {
    "openai:{}/v1#bright": "the answer 'A banana.' is not yes or no",
    "flow-factory:{}#light": "check that it is a Flow-Factory reward server",
}
"""Each reward, and what is said of a server that answers with nonsense."""


@dataclass(frozen=True)
class Whole:
    """A reward, and what a server that answers well makes of it."""

    reward: str
    table: Any
    policy: bytes
    asked_to_score: int
    asked_to_train: int

    @property
    def name(self) -> str:
        return table_of(self.reward)

    def is_scored(self) -> bool:
        return bool(Dataset.open("data").scores(self.name).equals(self.table))

    def is_trained(self) -> bool:
        return weights() == self.policy


def table_of(reward: str) -> str:
    return reward.rpartition("#")[2].replace("/", "-")


def scored(reward: str, server: Running) -> Result:
    return call(score.app, "data", "--reward", reward.format(server.url), "--batch-size", 2,
                "--num-processes", 1)  # fmt: skip


def trained(line: str) -> Result:
    """Run the line `ppod-train …` that a command printed."""
    return call(train.app, *shlex.split(line)[1:], *TRAIN, *OFTEN)


def weights() -> bytes:
    (file,) = Path("run/policy").glob("*.safetensors")
    return file.read_bytes()


@contextmanager
def kept_up() -> Iterator[list[Running]]:
    """Start a server, and another one on its port whenever the last one has died."""
    servers, is_over = [start()], threading.Event()

    def keep_up() -> None:
        while servers[-1].process.wait() and not is_over.is_set():
            servers.append(start(servers[0].port))

    keeper = threading.Thread(target=keep_up)
    keeper.start()
    try:
        yield servers
    finally:
        is_over.set()
        while keeper.is_alive():
            servers[-1].process.kill()
            keeper.join(0.1)
        for server in servers:
            server.kill()


@pytest.fixture(scope="module", params=NONSENSE, ids=["openai", "flow-factory"])
def whole(made: Made, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Whole:
    folder, reward = tmp_path_factory.mktemp("whole"), request.param
    shutil.copytree(made.data, folder / "data")
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = scored(reward, server)
        assert done.code == 0, done.stderr
        usage = "  13 requests, 1,300 tokens of questions, 26 of answers" in done.stdout.splitlines()
        assert usage == reward.startswith("openai")
        asked = server.asked()
        ranked = ran(following(done))
        server.behave("")
        done = trained(following(ranked))
        assert done.code == 0, done.stderr
        assert reward.format(server.url) in Path("run/run.json").read_text()
        if reward.startswith("openai"):
            assert done.stderr.count("; 4 requests, 400 tokens of questions, 8 of answers") == 3
            lines = [json.loads(line) for line in Path("run/evaluations.jsonl").read_text().splitlines()]
            assert [(line["step"], line["usage"]["requests"]) for line in lines] == [(0, 4), (1, 4), (2, 4)]
        table = Dataset.open("data").scores(table_of(reward))
        return Whole(reward, table, weights(), asked, server.asked())


@pytest.fixture
def data(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data set in the current folder; a server that does not respond is given up at once."""
    shutil.copytree(made.data, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between attempts."""
    monkeypatch.setattr(http_client, "time", SimpleNamespace(sleep=lambda seconds: None))


def test_a_server_that_is_killed_is_named_and_the_commands_resume(
    data: Path, whole: Whole, hasty: None
) -> None:
    server = start()
    port = server.port
    server.behave("die", after=whole.asked_to_score // 2)
    refused = scored(whole.reward, server)
    assert refused.code == 1
    assert re.search(
        r"did not respond in 7 attempts.*start the server again and run the", refused.one_error()
    )
    assert 0 < len(list((data / "scores" / whole.name).glob("*.parquet"))) < 3
    server.kill()
    with serving(port) as server:
        done = scored(whole.reward, server)
        assert done.code == 0 and whole.is_scored()
        line = following(ran(following(done)))
        server.behave("die", after=whole.asked_to_train // 2)
        refused = trained(line)
        assert refused.code == 1 and "start the server again and run the command again" in refused.stderr
        assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 1
    with serving(port):
        done = trained(line)
        assert done.code == 0, done.stderr
        assert whole.is_trained()


def test_a_server_that_hangs_and_is_started_again_is_waited_for(data: Path, whole: Whole) -> None:
    with kept_up() as servers:
        servers[-1].behave("hang", after=whole.asked_to_score // 2)
        done = scored(whole.reward, servers[0])
        assert done.code == 0 and whole.is_scored()
        line = following(ran(following(done)))
        servers[-1].behave("hang", after=whole.asked_to_train // 2)
        done = trained(line)
        assert done.code == 0, done.stderr
        assert whole.is_trained()
        assert len(servers) == 3


def test_a_slow_server_makes_the_same_table_and_policy(data: Path, whole: Whole) -> None:
    with serving() as server:
        server.behave("slow")
        done = scored(whole.reward, server)
        assert done.code == 0 and whole.is_scored()
        assert trained(following(ran(following(done)))).code == 0
        assert whole.is_trained()


def test_nonsense_is_one_error_and_nothing_is_kept_of_it(data: Path, whole: Whole) -> None:
    """The judge answers one question when it is connected."""
    connected = 1 if whole.reward.startswith("openai") else 0
    with serving() as server:
        server.behave("nonsense", after=connected)
        refused = scored(whole.reward, server)
        assert refused.code != 0 and NONSENSE[whole.reward] in refused.one_error()
        assert not (data / "scores" / whole.name).exists()
        server.behave("")
        done = scored(whole.reward, server)
        assert done.code == 0 and whole.is_scored()
        line = following(ran(following(done)))
        server.behave("nonsense", after=connected + (whole.asked_to_train - connected) // 3)
        refused = trained(line)
        assert refused.code != 0 and NONSENSE[whole.reward] in refused.stderr.splitlines()[-1]
        assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 1
        server.behave("")
        assert trained(line).code == 0
        assert whole.is_trained()
