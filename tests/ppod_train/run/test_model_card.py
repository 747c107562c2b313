"""The card of a policy, and its upload to a stand-in of the Hub on loopback."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from ppod_data.errors import ConfigError, HubError
from ppod_train.library.hub import check_repo_id, push_policy
from ppod_train.run.usage import usage
from tests.support.training import SETTINGS, run


@pytest.fixture(scope="module")
def trained(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    run(recorded, out, tiny_pipeline, redness, replace(SETTINGS, num_train_steps=3, dpo_beta=7.0))
    return out


def test_the_card_says_how_the_policy_was_made(trained: Path) -> None:
    """The Hub's own reader takes it; settings, data and evaluation are the records'."""
    text = (trained / "policy" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.library_name == "diffusers" and "lora" in card.data.tags
    record = json.loads((trained / "run.json").read_text())
    best = json.loads((trained / "summary.json").read_text())["best_step"]
    assert record["identity"]["data_fingerprint"] in text
    assert "- dpo_beta: `7.0`" in text and f"that of step {best}" in text
    assert "pipe.load_lora_weights" in text and "- a cat\n- two dogs" in text
    judged = json.loads((trained / "evals" / f"step-{best:06d}" / "eval.json").read_text())["overall"]
    assert f"| after | {judged['num_images']} | {judged['reward_mean']:.3f} (" in text


def test_the_code_of_the_card_makes_an_image(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, by the sampler of training: the folder's name is all that is filled in."""
    code = (trained / "policy" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    for option in ("height=16", "width=16", "num_inference_steps=4", "guidance_scale=1.0", "eta=1.0"):
        assert f"    {option},\n" in code
    names: dict[str, Any] = {}
    exec(code.replace("THIS_FOLDER", str(trained / "policy")), names)
    assert names["image"].size == (16, 16)


def test_the_card_of_a_scenes_policy_loads_the_embedded_model() -> None:
    record = {"model": "scenes", "prompts": ["a cat"], "generation": {"num_inference_steps": 2}}
    code = usage(record, lora=True).split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace('pipe.load_lora_weights("THIS_FOLDER")\n', ""), names)
    assert names["image"].size == (32, 32)


def test_the_card_of_a_flow_matching_policy_keeps_its_scheduler() -> None:
    record = {"model": "a/b", "prompts": ["a cat"], "generation": {"is_flow_matching": True, "revision": "r"}}
    code = usage(record, lora=True)
    assert "DDIM" not in code and "eta=" not in code and 'from_pretrained("a/b", revision="r")' in code


def test_the_card_of_a_policy_with_noise_in_a_window_samples_without_noise() -> None:
    """diffusers draws noise in every step or in none."""
    generation = {"num_inference_steps": 4, "ddim_eta": 1.0}
    for window, noisy in (("0:2", False), ("0:4", True)):
        record = {"model": "a/b", "prompts": [], "generation": generation | {"noisy_steps": window}}
        code = usage(record, lora=True)
        assert "DDIMScheduler" in code and ("eta=1.0" in code) == noisy


def test_the_card_of_a_run_that_nothing_beat_says_so(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = replace(SETTINGS, num_train_steps=3, learning_rate=1e-30)
    summary, _ = run(recorded, out, tiny_pipeline, redness, settings)
    assert summary.improved is False
    text = (out / "policy" / "README.md").read_text()
    assert "the kept policy IS the starting model" in text and "| before and after |" in text


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """What was uploaded, by path; a server that speaks the four requests of an upload."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer: dict[str, Any] = {}
            if self.path.startswith("/api/repos/create"):
                assert json.loads(body)["visibility"] == "private"
                answer = {"url": f"{endpoint}/me/policy"}
            elif "/preupload/" in self.path:
                named = [file["path"] for file in json.loads(body)["files"]]
                answer = {
                    "files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in named]
                }
            elif "/commit/" in self.path:
                for line in body.decode().splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                answer = {"commitUrl": f"{endpoint}/me/policy/commit/1", "commitOid": "1", "success": True}
            self._answer(answer)

        def do_GET(self) -> None:
            self._answer({"id": "me/policy", "siblings": [], "sha": "0"})

        def _answer(self, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_loopback")
    yield files
    server.shutdown()


def test_the_whole_policy_is_uploaded(trained: Path, hub: dict[str, bytes]) -> None:
    push_policy(trained / "policy", "me/policy")
    assert hub == {path.name: path.read_bytes() for path in (trained / "policy").iterdir()}
    assert set(hub) == {"README.md", "pytorch_lora_weights.safetensors"}


def test_what_cannot_be_uploaded_is_said_in_one_line(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="me cannot be a repository: give OWNER/NAME"):
        check_repo_id("me")
    with pytest.raises(ConfigError, match="cannot be a repository"):
        check_repo_id("me/a b")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        HubError, match=r"is trained, but was not uploaded to me/policy .* run the same command"
    ):
        push_policy(trained / "policy", "me/policy")
