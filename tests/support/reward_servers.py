"""Small servers of other projects' protocols on the loopback, in a process of their own: they rate brightness.

    with serving() as server:
        load_reward(f"openai:{server.url}/v1#bright")

POST /v1/chat/completions is an OpenAI-compatible API. The model's name chooses its behaviour: `bright` gives
log-probabilities, `bright-text` only text, `picky` refuses log-probabilities, `nonsense` names a fruit, `words` is
no JSON, `newer` wants max_completion_tokens, `slow` sleeps, `busy` fails at first, `locked` wants a key, `blind` takes
no images, `first` prefers image 1.
POST /compute is Flow-Factory's protocol. POST /score is UniRL's.

`server.behave("die", after=3)` lets the server answer three more questions of any protocol, then: `die` kills it
before it answers, `hang` after it has kept the client waiting, `slow` answers late, and `nonsense` is no score.
"""

import base64
import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image, ImageStat

KEY = "sk-test"
BAD = "bad"
"""A prompt of which Flow-Factory's server raises, and UniRL's reports an error."""


@dataclass(frozen=True)
class Running:
    """A server process."""

    url: str
    process: "subprocess.Popen[str]"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def behave(self, mode: str, after: int = 0) -> None:
        """Behave as `mode` after so many more questions; "" is well."""
        body = json.dumps({"mode": mode, "after": after}).encode()
        urllib.request.urlopen(f"{self.url}/behave", body).close()

    def asked(self) -> int:
        """Return the number of questions since the last call of `behave`."""
        with urllib.request.urlopen(f"{self.url}/asked") as response:
            return int(json.load(response)["asked"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def serving(port: int = 0) -> Iterator[Running]:
    """Start the servers, and kill them at the end."""
    running = start(port)
    try:
        yield running
    finally:
        running.kill()


def start(port: int = 0) -> Running:
    """Start the servers, on a free port unless one is given."""
    command = [sys.executable, str(Path(__file__)), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return Running(process.stdout.readline().strip(), process)


def brightness(png: str) -> float:
    """Return the mean of a PNG in base64, from 0.02 to 0.98."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        assert image.format == "PNG"
        mean = ImageStat.Stat(image.convert("L")).mean[0] / 255
    return 0.02 + 0.96 * mean


def answer(model: str, text: str, images: list[float]) -> dict[str, float]:
    """Return the probability of each answer."""
    if len(images) == 2:
        first = 1 / (1 + math.exp(-12 * (images[0] - images[1]) - (2 if model == "first" else 0)))
        return {"1": first, "2": 1 - first}
    if "number" in text:
        best = 1 + 4 * images[0]
        weights = {str(number): math.exp(-((number - best) ** 2)) for number in range(1, 6)}
        return {word: weight / sum(weights.values()) for word, weight in weights.items()}
    return {"Yes": images[0] * 0.9, " yes": images[0] * 0.1, "No": 1 - images[0]}


def completion(model: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return a chat completion in OpenAI's form."""
    parts = body["messages"][0]["content"]
    text = " ".join(part["text"] for part in parts if part["type"] == "text")
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    shares = answer(model, text, [brightness(url.partition(",")[2]) for url in urls])
    best = max(shares, key=lambda word: shares[word])
    said = "A banana." if model == "nonsense" else f"{best}."
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": said}}
    if body.get("logprobs") and model not in ("bright-text", "nonsense"):
        logs = [{"token": word, "logprob": math.log(share)} for word, share in shares.items()]
        first = {"token": best, "logprob": math.log(shares[best]), "top_logprobs": logs}
        choice["logprobs"] = {"content": [first, {"token": ".", "logprob": -0.01, "top_logprobs": []}]}
    usage = {"prompt_tokens": 100 * len(urls), "completion_tokens": 2, "total_tokens": 100 * len(urls) + 2}
    return {"object": "chat.completion", "model": f"{model}-2026-11", "choices": [choice], "usage": usage}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    counts: ClassVar[dict[str, int]] = {}
    mode = ""
    asked = after = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        if self.path == "/rewards":
            self.reply(200, {"rewards": ["bright", "two", "broken"]})
        elif self.path == "/counts":
            self.reply(200, self.counts)
        elif self.path == "/asked":
            self.reply(200, {"asked": Handler.asked})
        else:
            self.reply(200 if self.path == "/health" else 404, {"status": "ok"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/behave":
            Handler.mode, Handler.after, Handler.asked = body["mode"], body["after"], 0
            self.reply(200, {})
        elif self.misbehaves():
            pass
        elif self.path == "/v1/chat/completions":
            self.chat(body)
        elif self.path == "/compute":
            self.compute(body)
        elif self.path == "/score":
            self.score(body)
        else:
            self.reply(404, {"detail": "Not Found"})

    def misbehaves(self) -> bool:
        """Count a question; return True if it was answered by nonsense."""
        with self.lock:
            Handler.asked += 1
            mode = self.mode if Handler.asked > self.after else ""
        if mode == "slow":
            time.sleep(0.05)
        if mode == "hang":
            time.sleep(0.5)
        if mode in ("die", "hang"):
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "nonsense":
            said = {"message": {"role": "assistant", "content": "A banana."}}
            chat = {"model": "bright-2026-11", "choices": [{"index": 0, **said}]}
            self.reply(200, chat | {"rewards": ["a banana"], "results": ["a banana"], "errors": []})
        return mode == "nonsense"

    def chat(self, body: dict[str, Any]) -> None:
        model = body["model"]
        with self.lock:
            count = self.counts[model] = self.counts.get(model, 0) + 1
        known = (
            "bright",
            "bright-text",
            "picky",
            "nonsense",
            "words",
            "slow",
            "busy",
            "locked",
            "blind",
            "first",
            "newer",
        )
        if model not in known:
            self.reply(404, {"error": {"message": f"The model `{model}` does not exist."}})
        elif model == "locked" and self.headers.get("authorization") != f"Bearer {KEY}":
            self.reply(401, {"error": {"message": "Unauthorized"}})
        elif model == "blind":
            self.reply(400, {"error": {"message": "blind is not a multimodal model"}})
        elif model == "picky" and "logprobs" in body:
            self.reply(400, {"error": {"message": "logprobs are not supported"}})
        elif model == "newer" and ("max_tokens" in body or body["temperature"] == 0):
            self.reply(400, {"error": {"message": "Unsupported parameter: use max_completion_tokens"}})
        elif model == "busy" and count % 2:
            self.reply(503, {"error": {"message": "overloaded"}})
        elif model == "words" and count > 1:
            self.send(200, b"<html>welcome</html>")
        else:
            if model == "slow" and count > 1:
                time.sleep(30)
            self.reply(200, completion("bright" if model == "words" else model, body))

    def compute(self, body: dict[str, Any]) -> None:
        if BAD in body["prompt"]:
            self.reply(500, {"detail": "cannot read this prompt"})
        else:
            self.reply(200, {"rewards": [brightness(png) for png in body["image"]]})

    def score(self, body: dict[str, Any]) -> None:
        results: list[dict[str, Any]] = []
        errors: list[dict[str, str]] = []
        for request in body["requests"]:
            (turn,), (reward,) = request["history"], request["required_rewards"]
            failed = reward == "broken" or turn["text"] == BAD
            light = brightness(turn["image_b64"])
            numbers = {"bright": light} if reward == "bright" else {"light": light, "dark": 1 - light}
            results.append({} if failed else {reward: numbers})
            errors.append({reward: "RuntimeError('out of memory')"} if failed else {})
        self.reply(200, {"results": results, "errors": errors})

    def reply(self, status: int, value: Any) -> None:
        self.send(status, json.dumps(value).encode())

    def send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Its clients may be killed at any time."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
