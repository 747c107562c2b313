"""A reward behind HTTP: the real server in another process, and servers that misbehave."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3
from PIL import Image

from ppod_data.errors import ConfigError, RewardUnavailableError
from ppod_data.format.images import encode_png
from ppod_data.rewards.jpeg import INCOMPRESSIBILITY
from ppod_data.rewards.numbers import NoScore
from ppod_data.rewards.servers.http_client import Patience
from ppod_data.rewards.servers.remote import Limits, RemoteReward, connect
from ppod_data.scoring.score import score
from ppod_data.support.http import listen
from tests.support.small_rewards import images
from tests.support.toy import make_dataset

REPOSITORY = Path(__file__).parents[3]
QUICK = Patience(attempts=8, pause=0.05, connect=5, answer=60)
WORKERS = """
import os
def broken(prompts, images):
    if "bad" in prompts:
        raise ValueError("no idea")
    return [float(len(prompt)) for prompt in prompts]
def dies_once(prompts, images):
    if not os.path.exists("died"):
        open("died", "w").close()
        os._exit(1)
    return [1.0] * len(images)
"""


@contextmanager
def served(name: str, folder: Path, *options: str, port: int = 0) -> Iterator[str]:
    """The URL of `ppod-score --serve NAME` in another process, killed at the end."""
    process = start(name, folder, *options, port=port)
    try:
        yield url_of(process)
    finally:
        process.kill()
        process.communicate()


def start(name: str, folder: Path, *options: str, port: int = 0) -> "subprocess.Popen[str]":
    (folder / "workers.py").write_text(WORKERS)
    command = ["-m", "ppod_cli.score", "--serve", name, "--port", str(port), "--json", "--device", "cpu"]
    paths = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'cli'}"
    return subprocess.Popen(
        [sys.executable, *command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
    )


def url_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return str(json.loads(process.stdout.readline())["url"])


def post(url: str, body: bytes) -> Any:
    kind = {"Content-Type": "application/json"}
    answer = urllib3.request("POST", f"{url}/score", body=body, headers=kind, retries=False)
    return answer.status, json.loads(answer.data)


def encoded(image: Image.Image) -> str:
    return base64.b64encode(encode_png(image)).decode()


@pytest.fixture(scope="module")
def jpeg_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served("jpeg-incompressibility", tmp_path_factory.mktemp("served"), "--batch-size", "3") as url:
        yield url


def test_served_scores_are_the_model_s_under_its_name_and_revision(jpeg_url: str) -> None:
    reward = connect(jpeg_url)
    assert (reward.name, reward.revision) == (INCOMPRESSIBILITY.name, INCOMPRESSIBILITY.revision)
    assert reward.limits.images == 3  # so four images are two requests
    assert reward.score(["a"] * 4, images()) == INCOMPRESSIBILITY.score(["a"] * 4, images())
    assert reward.score([], []) == []


def test_a_bad_image_is_refused_by_itself(jpeg_url: str) -> None:
    truncated = base64.b64encode(encode_png(images()[0])[:200]).decode()
    jpeg = io.BytesIO()
    images()[0].save(jpeg, "JPEG")
    huge = encoded(Image.new("1", (30_000, 3_000)))
    for bad in ("%%%", truncated, base64.b64encode(jpeg.getvalue()).decode(), huge):
        status, told = post(
            jpeg_url, json.dumps({"prompts": ["a", "b"], "images": [bad, encoded(images()[1])]}).encode()
        )
        assert status == 200
        assert "image" in told["results"][0]["error"]
        assert told["results"][1] == {"score": INCOMPRESSIBILITY.score(["b"], [images()[1]])[0]}


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "not JSON"),
        (b"[1]", 400, "two lists"),
        (b'{"prompts": ["a"], "images": [3]}', 400, "two lists"),
        (b'{"prompts": ["a"], "images": []}', 400, "one prompt an image"),
        (b'{"prompts": ["a", "a", "a", "a"], "images": ["", "", "", ""]}', 413, "send fewer"),
        (b" " * (64 << 20) + b"{}", 413, "send fewer"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(
    jpeg_url: str, body: bytes, status: int, reason: str
) -> None:
    found, told = post(jpeg_url, body)
    assert found == status
    assert reason in told["error"]


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"Host": "evil.example"}, 403),
        ("GET", {"Host": "[::1"}, 403),
        ("GET", {"Origin": "http://evil.example"}, 403),
        ("POST", {"Host": "evil.example", "Content-Type": "application/json"}, 403),
        ("POST", {"Origin": "http://evil.example", "Content-Type": "application/json"}, 403),
        ("POST", {"Origin": "null", "Content-Type": "application/json"}, 403),
        ("POST", {"Content-Type": "text/plain"}, 415),
        ("POST", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST", {}, 415),
    ],
)
def test_a_page_of_another_site_gets_nothing(
    jpeg_url: str, method: str, headers: dict[str, str], status: int
) -> None:
    path = "/score" if method == "POST" else "/"
    answer = urllib3.request(method, f"{jpeg_url}{path}", body=b"{}", headers=headers, retries=False)
    assert answer.status == status and "error" in answer.json()


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
def test_an_address_that_is_not_free_is_named_with_the_way_out(host: str) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"cannot serve on http://{host}:{port}: .+: give another --port"
        ):
            listen(host, port)


def test_json_of_very_many_values_is_refused_before_it_is_parsed(jpeg_url: str) -> None:
    status, told = post(jpeg_url, b"[" + b"{}," * 1_000_000 + b"{}]")
    assert status == 400 and "very many values" in told["error"]
    prompt = ", ".join(["a [cat]"] * 3_000)
    status, told = post(
        jpeg_url, json.dumps({"prompts": [prompt], "images": [encoded(images()[0])]}).encode()
    )
    assert status == 200 and "score" in told["results"][0]


def test_more_workers_than_a_batch_all_get_their_scores(jpeg_url: str) -> None:
    scores: list[list[float]] = []

    def work() -> None:
        scores.append(connect(jpeg_url, QUICK).score(["a"], images()[:1]))

    threads = [threading.Thread(target=work) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scores == [INCOMPRESSIBILITY.score(["a"], images()[:1])] * 60


def test_a_row_that_the_server_cannot_score_is_marked_with_its_reason(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", prompts=("good", "bad"))
    with served("workers:broken", tmp_path) as url:
        done = score(dataset, connect(url), name="remote", batch_size=4)
    assert (done.scorer, done.num_scored, done.num_failed) == ("broken", 3, 3)
    rows = dataset.scores("remote").to_pylist()
    assert [row["status"].rpartition(": ")[2] for row in rows] == ["ok"] * 3 + ["no idea"] * 3
    assert [row["score"] for row in rows[:3]] == [4.0] * 3


@pytest.mark.long
def test_a_server_that_is_killed_and_started_again_is_waited_for(tmp_path: Path) -> None:
    first = start("workers:dies_once", tmp_path)
    url = url_of(first)
    reward = connect(url, Patience(attempts=12, pause=0.05, connect=5, answer=60))
    again: list[subprocess.Popen[str]] = []

    def restart() -> None:
        first.wait()
        again.append(start("workers:dies_once", tmp_path, port=int(url.rpartition(":")[2])))

    watcher = threading.Thread(target=restart)
    watcher.start()
    try:
        assert reward.score(["a"] * 4, images()) == [1.0] * 4
    finally:
        watcher.join()
        for process in [first, *again]:
            process.kill()
            process.communicate()


def test_a_server_that_stays_away_ends_the_scoring_and_marks_nothing(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    with served("jpeg-compressibility", tmp_path) as url:
        reward = connect(url, Patience(attempts=2, pause=0.01))
    with pytest.raises(
        RewardUnavailableError, match=r"did not respond in 2 attempts .*start the server again"
    ):
        score(dataset, reward, name="remote")
    assert not (dataset.root / "scores").exists()


@contextmanager
def answering(answer: Callable[[int, BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server of the test's own; `answer` gets the number of the request."""
    count = iter(range(1000))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            answer(next(count), self)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def say(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def scores(*values: Any, name: str = "r") -> bytes:
    results = [{"score": value} for value in values]
    return json.dumps({"name": name, "revision": "1", "results": results}).encode()


def remote(url: str, patience: Patience = QUICK) -> RemoteReward:
    return RemoteReward(url, "r", "1", Limits(64, 1 << 26, 1 << 26), patience)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_failures_that_pass_are_tried_again(status: int) -> None:
    with answering(
        lambda i, handler: say(handler, scores(2.5) if i == 3 else b"oh", 200 if i == 3 else status)
    ) as url:
        assert remote(url).score(["a"], images(1)) == [2.5]


def test_an_answer_cut_in_the_middle_is_asked_for_again() -> None:
    def answer(number: int, handler: BaseHTTPRequestHandler) -> None:
        if number:
            return say(handler, scores(1.0))
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"na')

    with answering(answer) as url:
        assert remote(url).score(["a"], images(1)) == [1.0]


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RewardUnavailableError, match=r"2 attempts .*ReadTimeoutError"):
            remote(url, Patience(attempts=2, pause=0.01, answer=0.05)).score(["a"], images(1))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>hello</html>", "did not return JSON .*hello"),
        (b"\xff\xfe", "did not return JSON"),
        (b"[]", "JSON object"),
        (b"{}", "now serves None None"),
        (scores(1.0, name="other"), "now serves other 1, not r 1"),
        (scores(), "did not return 1 results"),
        (scores(1.0, 2.0), "did not return 1 results"),
        (scores("1"), "as a score"),
        (scores(True), "as a score"),
        (scores(float("nan")), "as a score"),
    ],
)
def test_garbage_is_no_score(body: bytes, reason: str) -> None:
    with (
        answering(lambda i, handler: say(handler, body)) as url,
        pytest.raises(RewardUnavailableError, match=reason),
    ):
        remote(url).score(["a"], images(1))


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"protocol": 2},
        {"protocol": 1, "name": "r", "revision": 1},
        {"protocol": 1, "name": "r", "revision": "1", "max_images": 0, "max_pixels": 1, "max_bytes": 1},
        {"protocol": 1, "name": "../r", "revision": "1", "max_images": 1, "max_pixels": 1, "max_bytes": 1},
    ],
)
def test_what_is_no_reward_server_is_refused_at_once(told: dict[str, Any]) -> None:
    with (
        answering(lambda i, handler: say(handler, json.dumps(told).encode())) as url,
        pytest.raises(ConfigError),
    ):
        connect(url, QUICK)


def test_requests_keep_to_the_limits_of_the_server() -> None:
    four = images()  # 64×64, 80×48, 36×52, 224×224
    size = len(encoded(four[0])) + len(encoded(four[1]))
    for limits, expected in (
        (Limits(3, 1 << 26, 1 << 26), [3, 1]),
        (Limits(64, 64 * 64 + 80 * 48, 1 << 26), [2, 1, 1]),
        (Limits(64, 1 << 26, size + 1024 + 100), [2, 1, 1]),
    ):
        answers = [scores(*[1.0] * count) for count in expected]
        with answering(lambda i, handler, answers=answers: say(handler, answers[i])) as url:
            assert RemoteReward(url, "r", "1", limits, QUICK).score(["a"] * 4, four) == [1.0] * 4


def test_a_refusal_of_an_image_says_why() -> None:
    body = json.dumps({"name": "r", "revision": "1", "results": [{"error": "too dark"}]}).encode()
    with answering(lambda i, handler: say(handler, body)) as url:
        assert remote(url).score(["a"], images(1)) == [NoScore("too dark", is_declined=True)]
