"""Objectives that read x_0 alone by the real commands: on the embedded model and on a flow-matching model."""

import json
from pathlib import Path
from typing import Any

import pytest
from ppod_cli import gen, pair, score, train

from tests.support.command import call
from tests.support.pipelines import save_tiny_sd3_pipeline

FEW = ("--num-train-steps", 2, "--pairs-per-step", 2, "--lora-rank", 2)


def told(app: Any, *words: object) -> dict[str, Any]:
    """What a command says for programs."""
    done = call(app, *words, "--json")
    assert done.code == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_on_the_embedded_model_from_x_0_alone(tmp_path: Path) -> None:
    """One noisy step: the chain's log-probabilities are those of one step, and all timesteps are trained."""
    data = tmp_path / "data"
    sampling = ("--prompt", "a red colored wolf", "--num-inference-steps", 4, "--noisy-steps", "0:1")
    told(gen.app, data, *sampling, "--num-images-per-prompt", 8)
    told(score.app, data, "--reward", "scenes")
    told(pair.app, "rank", data, "--reward", "scenes")
    for objective, table in (
        ("diffusion-nft", "--scores"),
        ("awm", "--scores"),
        ("diffusion-dpo", "--pairs"),
    ):
        out = tmp_path / objective
        words = ("--objective", objective, table, "scenes", "--eval-every", 0, "--out", out)
        assert told(train.app, "offline", data, *words, *FEW)["steps"] == 2
        assert json.loads((out / "run.json").read_text())["num_trained_steps"] == 3
        assert (out / "policy" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize("objective", ["diffusion-nft", "awm"])
def test_online_on_a_flow_matching_model(tmp_path: Path, objective: str) -> None:
    """Each stage starts at the policy that made its data, so its first loss is 0."""
    out, model = tmp_path / "run", save_tiny_sd3_pipeline(tmp_path / "model")
    sampling = (
        "--model",
        model,
        "--num-inference-steps",
        4,
        "--num-images-per-prompt",
        4,
        "--guidance-scale",
        1,
    )
    stages = (
        "--prompt",
        "a cat",
        "--stages",
        2,
        "--reward",
        "jpeg-compressibility",
        "--eval-images-per-prompt",
        0,
    )
    words = ("--objective", objective, "--learning-rate", 0.01)
    told(train.app, "online", "--out", out, *sampling, *stages, *FEW, *words, "--noisy-steps", "0:1")
    for stage in (1, 2):
        found = losses(out / f"stage-0{stage}" / "run")
        assert found[0] == pytest.approx(0.0, abs=1e-6) and found[1] != found[0]
