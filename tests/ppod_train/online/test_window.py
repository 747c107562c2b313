"""A window of noisy steps that moves from stage to stage."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import load_model
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError
from ppod_data.generation.build_spec import build_spec
from ppod_train.evaluation.files import read_evaluation
from ppod_train.online.online import train_online
from ppod_train.online.settings import OnlineSettings
from ppod_train.online.window import stage_window
from ppod_train.settings import TrainSettings
from tests.support.pipelines import save_tiny_pipeline, save_tiny_sd3_pipeline

TRAIN = TrainSettings(
    num_train_steps=1,
    pairs_per_step=2,
    lora_rank=2,
    eval_every=0,
    learning_rate=1e-2,
    lr_scheduler="constant",
)
SETTINGS = OnlineSettings(num_stages=3, eval_images_per_prompt=1, train=TRAIN, window_stride=2)


def test_a_window_moves_through_the_quiet_steps_and_starts_again(tmp_path: Path) -> None:
    ddim = load_model(str(save_tiny_pipeline(tmp_path / "sd")))
    flow = load_model(str(save_tiny_sd3_pipeline(tmp_path / "sd-3")))
    windows = {
        (model, steps, window, stride): [
            stage_window(
                build_spec(model, ["a cat"], num_inference_steps=steps, noisy_steps=window), stage, stride
            )
            for stage in range(1, 7)
        ]
        for model, steps, window, stride in (
            (ddim, 8, "0:2", 2),
            (ddim, 8, "1:4", 2),
            (flow, 8, "0:2", 2),
        )
    }
    assert list(windows.values()) == [
        ["0:2", "2:4", "4:6", "6:8", "0:2", "2:4"],
        ["1:4", "3:6", "5:8", "1:4", "3:6", "5:8"],
        ["0:2", "2:4", "4:6", "0:2", "2:4", "4:6"],
    ]
    for window, stride in (("0:8", 1), ("5:8", 1), ("0:4", 3)):
        spec = build_spec(flow, ["a cat"], num_inference_steps=8, noisy_steps=window)
        with pytest.raises(ConfigError, match=f"the window {window} cannot move.*0:6"):
            stage_window(spec, 1, stride)


def test_every_stage_trains_on_its_own_window_and_all_are_evaluated_alike(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    out, folder = tmp_path / "run", str(tiny_pipeline)
    chain = {"num_images_per_prompt": 4, "num_inference_steps": 5, "noisy_steps": "0:2", "batch_size": 4}

    def train(settings: OnlineSettings) -> None:
        train_online(
            out,
            settings,
            reference=ModelSource(model=folder),
            build_spec=partial(build_spec, prompts=("a cat",), initial_noise="per-prompt", **chain),
            load=lambda source: load_model(source.model, adapter=source.adapter),
            reward=redness,
        )

    train(SETTINGS)
    specs = [Dataset.open(out / f"stage-{stage:02d}/data").spec for stage in (1, 2, 3)]
    assert [spec.noisy_steps for spec in specs] == ["0:2", "2:4", "0:2"]
    for stage in range(4):
        assert read_evaluation(out / f"evals/stage-{stage:02d}").settings.noisy_steps == "0:2"
    rows = (out / "stage-02/run/metrics.jsonl").read_text().splitlines()
    trained = [row for row in map(json.loads, rows) if "log_ratio_max" in row]
    assert len(trained) == 1
    train(replace(SETTINGS, num_stages=4))
    with pytest.raises(ConfigError, match="window_stride 2, not 1"):
        train(replace(SETTINGS, num_stages=4, window_stride=1))


def test_windows_of_other_stages_are_not_replayed() -> None:
    assert SETTINGS.replay == 0 and replace(SETTINGS, window_stride=0).replay == "all"
    with pytest.raises(ConfigError, match="leave --replay-stages or --window-stride out"):
        replace(SETTINGS, replay_stages=1).validate()
    with pytest.raises(ConfigError, match="leave --trained-steps or --window-stride out"):
        replace(SETTINGS, train=replace(TRAIN, trained_steps="0:2")).validate()
