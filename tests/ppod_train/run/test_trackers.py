"""Trackers get metrics, evaluations, statistics of images and samples, offline, through their real packages.

The development environment has wandb and mlflow-skinny (140 MB together with their requirements). trackio 0.43 needs
Pillow below 13, and the environment pins 13: its test is skipped there, and runs where trackio is installed.
"""

import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ppod_data.errors import ConfigError
from ppod_train.run.trackers import run_name
from ppod_train.settings import TrainSettings
from tests.support.training import SETTINGS, run

SHORT = replace(SETTINGS, num_train_steps=2, eval_every=2)
MISSING = [name for name in ("wandb", "trackio", "mlflow") if find_spec(name) is None]


def test_tensorboard_has_statistics_and_samples(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    run(recorded, tmp_path / "run", tiny_pipeline, redness, SHORT)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"images/edges", "images/diversity", "images/distance"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("samples")] == [0, 2]


def test_none_writes_no_tracker(recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path) -> None:
    run(recorded, tmp_path / "run", tiny_pipeline, redness, replace(SHORT, report_to="none"))
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.skipif(not MISSING, reason="all trackers are installed")
def test_a_missing_package_is_one_line_before_anything_is_written() -> None:
    with pytest.raises(ConfigError, match=rf"pip install 'ppod\[{MISSING[0]}\]'"):
        replace(TrainSettings(), report_to=MISSING[0]).validate()


def test_stages_of_an_online_run_are_named_after_it() -> None:
    assert run_name(Path("/a/run")) == "run"
    assert run_name(Path("/a/big/stage-02/run")) == "big-stage-02"


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run(recorded, tmp_path / "run", tiny_pipeline, redness, replace(SHORT, report_to="wandb"))
    folder = next((tmp_path / "wandb").glob("offline-run-*"))
    assert len(list((folder / "files" / "media" / "images").glob("samples_*.png"))) == 2
    file, names = next(folder.glob("run-*.wandb")), (b"eval/reward", b"images/edges", b"loss")
    end = time.monotonic() + 60  # wandb's own process writes on after the end of the run
    while not all(name in file.read_bytes() for name in names):
        assert time.monotonic() < end, "wandb has not written the figures"
        time.sleep(0.1)


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_local(recorded: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    """In a process of its own, because trackio reads its folder from the environment when it is imported."""
    code = f"""
import sys
import time
from dataclasses import replace
from pathlib import Path
from tests.ppod_train.conftest import Redness
from tests.ppod_train.run.test_trackers import SHORT
from tests.support.training import run
run(Path({str(recorded)!r}), Path("run"), Path({str(tiny_pipeline)!r}), Redness(), replace(SHORT, report_to="trackio"))
import trackio
names = trackio.Api().runs("ppod")
print([name.name for name in names])
"""
    env = {"TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": ":".join(sys.path)}
    import os

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "['run']" in done.stdout
    assert list((tmp_path / "trackio").glob("ppod*.db"))


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_in_a_local_store(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    run(recorded, tmp_path / "run", tiny_pipeline, redness, replace(SHORT, report_to="mlflow"))
    found = mlflow.search_runs(experiment_names=["ppod"], output_format="list")
    assert [item.info.run_name for item in found] == ["run"]
    assert {"eval/reward", "images/edges", "loss"} <= set(found[0].data.metrics)
    assert list((tmp_path / "mlruns").rglob("*.png"))
