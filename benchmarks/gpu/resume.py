"""Kill real commands and start them again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device import empty_cache
from models import PROMPT, random_model

from ppod_data.dataset.dataset import Dataset

_ROOT = Path(__file__).resolve().parents[2]


def check_resume(folder: Path, work: Path, *, device: str, dtype: str) -> dict[str, Any]:
    """Kill a real `ppod-gen` and a real `ppod-train`, start them again, and compare with undisturbed runs."""
    model = random_model(folder, device=device, compute_dtype=dtype)
    saved = work / "saved"
    model.pipeline.save_pretrained(saved)
    del model
    empty_cache(device)
    sampling = [
        "--model",
        saved,
        "--prompt",
        PROMPT,
        "--num-images-per-prompt",
        8,
        "--num-inference-steps",
        4,
    ]
    sampling += ["--batch-size", 2, "--images-per-shard", 2, "--device", device, "--compute-dtype", dtype]
    training = ["--num-train-steps", 6, "--checkpoint-every", 1, "--eval-every", 0, "--pairs-per-step", 2]
    training += ["--timesteps-per-update", 2, "--learning-rate", 1e-4, "--pairs", "jpeg-compressibility"]
    training += ["--device", device, "--log-ratio-clip", 10]
    _command("gen", work / "whole", *sampling)
    _command(
        "gen", work / "data", *sampling, kill_when=lambda: (work / "data/samples/000000.parquet").exists()
    )
    _command("gen", work / "data", *sampling)
    _command("score", work / "data", "--reward", "jpeg-compressibility")
    _command("pair", "rank", work / "data", "--reward", "jpeg-compressibility", "--strategy", "all")
    _command("train", "offline", work / "data", "--out", work / "undisturbed", *training)
    checkpoints = work / "killed/checkpoints"
    killed = _command(
        "train", "offline", work / "data", "--out", work / "killed", *training,
        kill_when=lambda: any(checkpoints.glob("step-*/state.json")),
    )  # fmt: skip
    _command("train", "offline", work / "data", "--out", work / "killed", *training)
    return {
        "samples_equal": _images(work / "whole") == _images(work / "data"),
        "train_was_killed": killed == -signal.SIGKILL,
        "policy_difference": _largest_difference(work / "undisturbed/policy", work / "killed/policy"),
    }


def _images(data: Path) -> list[str]:
    return [
        str(value)
        for value in Dataset.open(data).samples(["image_pixels_sha256"])["image_pixels_sha256"].to_pylist()
    ]


def _largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference of a weight, relative to the largest weight of its tensor; 0 for equal policies."""
    from safetensors.torch import load_file

    name = "pytorch_lora_weights.safetensors"
    a, b = load_file(one / name), load_file(other / name)
    return max(float((a[key] - b[key]).abs().max() / a[key].abs().max().clamp(min=1e-30)) for key in a)


def _command(name: str, *arguments: object, kill_when: Callable[[], bool] | None = None) -> int:
    """Run a command; kill it by SIGKILL as soon as `kill_when` holds. Returns its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"ppod_cli.{name}", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "cli"), *sys.path[1:]])},
    )
    while kill_when is not None and process.poll() is None:
        if kill_when():
            process.kill()
        time.sleep(0.02)
    output, _ = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"ppod_cli.{name} ended with {process.returncode}: {output[-1500:]}")
    return process.returncode
