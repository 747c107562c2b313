"""The GPU check runs in its CPU form: every model class, killed runs included."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_gpu_check_passes_on_tiny_pipelines(tmp_path: Path) -> None:
    out = tmp_path / "gpu-check.json"
    folders = os.pathsep.join(map(str, (ROOT, ROOT / "cli")))
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks/gpu/check.py",
            "--device",
            "cpu",
            "--tiny",
            "--out",
            out,
            "--budget",
            "3600",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": folders},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads(out.read_text())["checks"]
    resumed = checks.pop(next(title for title in checks if title.startswith("resume")))
    assert resumed == {"samples_equal": True, "train_was_killed": True, "policy_difference": 0.0}
    assert len(checks) == 11
    for found in checks.values():
        assert found["sampled_twice_equal"]
        assert found["replay_error_same_batch"] == 0.0
        assert found["drift_worst_step_p99"] < 1e-4
