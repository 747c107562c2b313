"""Stages whose rewards tell no two images apart: trained on earlier stages' pairs, or the end of the run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import NothingToLearnError
from ppod_data.support.progress import Silent
from tests.ppod_train.online.test_online import (
    SETTINGS,
    TRAIN,
    Killed,
    KillIn,
    compared,
    one_step,
    run,
    settings_of,
)


class Tired:
    """A reward that finds all images equal from its third call on: two shards of the first stage come before."""

    name, revision = "tired", "1"

    def __init__(self, after: int) -> None:
        self.after = after

    def score(self, prompts: Any, images: Any) -> list[float]:
        self.after -= 1
        return [float(i) if self.after >= 0 else 1.0 for i in range(len(images))]


@pytest.mark.parametrize("objective", ["ppod", "ddpo"])
def test_a_run_ends_where_nothing_is_left_to_learn(
    tiny_pipeline: Path, tmp_path: Path, objective: str
) -> None:
    settings = settings_of(one_step(objective), num_stages=3, replay_stages=0)
    summary = run(tmp_path, tiny_pipeline, Tired(after=2), settings)
    assert summary.converged and (summary.stages, summary.best_stage) == (1, 1)
    assert not (tmp_path / "stage-03").exists()
    kept = (tmp_path / "policy" / "pytorch_lora_weights.safetensors").read_bytes()
    first = tmp_path / "stage-01" / "run" / "policy" / "pytorch_lora_weights.safetensors"
    assert kept == first.read_bytes()
    assert run(tmp_path, tiny_pipeline, Tired(after=2), settings) == summary  # run again: the same end


class Dozing:
    """A reward that tells the images of some prompts apart in some stages: True for each shard where it does."""

    name, revision = "dozing", "1"

    def __init__(self, *awake: bool) -> None:
        self.awake = list(awake)

    def score(self, prompts: Any, images: Any) -> list[float]:
        awake = self.awake.pop(0)
        return [float(i) if awake else 1.0 for i in range(len(images))]


class Lines(Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a_stage_without_pairs_trains_on_those_of_earlier_stages(tiny_pipeline: Path, tmp_path: Path) -> None:
    """Two shards a stage. The second stage has no pairs, and the third one replays only the first one's."""
    settings = settings_of(replace(TRAIN, num_train_steps=2), num_stages=3)
    awake = (True, True, False, False, True, True)
    said = Lines()
    summary = run(tmp_path / "a", tiny_pipeline, Dozing(*awake), settings, said)
    assert not summary.converged and summary.stages == 3
    stages = [tmp_path / "a" / f"stage-{stage:02d}" for stage in (1, 2, 3)]
    assert [Dataset.open(stage / "data").pair_names() for stage in stages] == [["dozing"], [], ["dozing"]]
    records = [json.loads((stage / "run" / "run.json").read_text()) for stage in stages]
    data = [str(stage / "data") for stage in stages]
    assert [record["datasets"] for record in records] == [data[:1], data[:1], [data[0], data[2]]]
    assert [line for line in said.lines if "apart enough" in line] == [
        "online: stage 2: the reward tells no two of its images apart enough; it trains on earlier stages' pairs"
    ]
    with pytest.raises(Killed):
        run(tmp_path / "b", tiny_pipeline, Dozing(*awake), settings, KillIn("stage 2/3 train"))
    assert run(tmp_path / "b", tiny_pipeline, Dozing(*awake[4:]), settings) == summary
    assert compared(tmp_path / "b") == compared(tmp_path / "a")


def test_a_run_ends_where_the_replayed_stages_have_no_pairs_either(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    settings = settings_of(replace(TRAIN, num_train_steps=1), num_stages=4, replay_stages=1)
    said = Lines()
    summary = run(tmp_path, tiny_pipeline, Dozing(True, True, *[False] * 4), settings, said)
    assert summary.converged and summary.stages == 2
    assert [line.partition(":")[2][:9] for line in said.lines if "apart enough" in line] == [
        " stage 2:",
        " stage 3 ",
    ]


def test_a_reference_whose_images_are_all_alike_is_an_error(tiny_pipeline: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, eval_images_per_prompt=0)
    with pytest.raises(NothingToLearnError, match="no pair"):
        run(tmp_path, tiny_pipeline, Tired(after=0), settings)
