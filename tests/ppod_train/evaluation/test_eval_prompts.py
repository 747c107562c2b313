"""Prompts of evaluations are a run's own choice; a stage may be made of a part of the prompts; `eval` resumes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.online.settings import OnlineSettings
from ppod_train.run.compare import run_evaluation
from tests.ppod_train.evaluation.test_evaluate import Brightness
from tests.ppod_train.online.test_online import SETTINGS as ONLINE
from tests.ppod_train.online.test_online import run as run_online
from tests.support.training import SETTINGS, compared, run

OTHERS = ("a bird", "three pigs", "a wolf")
PROMPTS = ("a cat", "two dogs", "a bird", "a wolf")
IMAGES = EvalSettings(
    prompts=("a cat", "two dogs"), num_images_per_prompt=6, num_inference_steps=2, batch_size=4
)


def judged(out: Path) -> list[str]:
    return list(json.loads((out / "evals/step-000000/eval.json").read_text())["prompts"])


def test_a_run_is_judged_on_the_prompts_that_were_asked_for(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, eval_prompts=OTHERS)
    run(recorded, tmp_path / "run", tiny_pipeline, redness, settings)
    assert judged(tmp_path / "run") == list(OTHERS)
    before = compared(tmp_path / "run")
    run(recorded, tmp_path / "run", tiny_pipeline, redness, settings)
    assert compared(tmp_path / "run") == before
    with pytest.raises(ConfigError, match="eval_prompts"):
        run(recorded, tmp_path / "run", tiny_pipeline, redness, SETTINGS)


def test_an_online_run_draws_prompts_for_every_stage_and_is_judged_on_its_own(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    settings = replace(ONLINE, prompts_per_stage=2, eval_prompts=OTHERS)
    run_online(tmp_path / "run", tiny_pipeline, redness, settings, prompts=PROMPTS)
    stages = [Dataset.open(tmp_path / f"run/stage-0{stage}/data").spec.prompts for stage in (1, 2)]
    assert all(len(prompts) == 2 and set(prompts) < set(PROMPTS) for prompts in stages)
    assert list(json.loads((tmp_path / "run/evals/stage-02/eval.json").read_text())["prompts"]) == list(
        OTHERS
    )
    longer = replace(settings, num_stages=3)
    run_online(tmp_path / "run", tiny_pipeline, redness, longer, prompts=PROMPTS)
    again = [Dataset.open(tmp_path / f"run/stage-0{stage}/data").spec.prompts for stage in (1, 2)]
    assert again == stages


def test_more_prompts_a_stage_than_there_are_is_refused_before_anything_is_written(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="prompts_per_stage 5 is more than the 4 prompts"):
        run_online(
            tmp_path / "run", tiny_pipeline, redness, replace(ONLINE, prompts_per_stage=5), prompts=PROMPTS
        )
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="at least 1"):
        OnlineSettings(prompts_per_stage=0).validate()


class Dies(Brightness):
    """Brightness, until the process ends."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def score(self, *images: Any) -> list[float]:
        if len(self.batches) == self.after:
            raise KeyboardInterrupt
        return super().score(*images)


def evaluated(pipeline: Path, out: Path, reward: Brightness, **changes: Any) -> None:
    source = ModelSource(model=str(pipeline))
    options = {"baseline": source, "settings": IMAGES} | changes
    run_evaluation(source, out, reward, **options)


def files(out: Path) -> dict[str, bytes]:
    names = ("before/eval.json", "after/eval.json", "after/images.png", "summary.json", "grid.png")
    return {name: (out / name).read_bytes() for name in names if (out / name).exists()}


def test_an_interrupted_evaluation_resumes_to_the_same_files(tiny_pipeline: Path, tmp_path: Path) -> None:
    evaluated(tiny_pipeline, tmp_path / "whole", Brightness())
    with pytest.raises(KeyboardInterrupt):
        evaluated(tiny_pipeline, tmp_path / "cut", Dies(after=6))
    assert set(files(tmp_path / "cut")) == {"before/eval.json"}
    reward = Brightness()
    evaluated(tiny_pipeline, tmp_path / "cut", reward)
    assert len(reward.batches) == 4  # the policy's alone: two prompts of two batches
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    reward = Brightness()
    evaluated(tiny_pipeline, tmp_path / "cut", reward)
    assert not reward.batches
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_an_evaluation_of_other_images_replaces_an_earlier_one(tiny_pipeline: Path, tmp_path: Path) -> None:
    evaluated(tiny_pipeline, tmp_path, Brightness())
    with pytest.raises(KeyboardInterrupt):
        evaluated(tiny_pipeline, tmp_path, Dies(after=6), settings=replace(IMAGES, seed=9))
    assert set(files(tmp_path)) == {"before/eval.json"}  # nothing of two evaluations is mixed
    evaluated(tiny_pipeline, tmp_path, Brightness(), settings=replace(IMAGES, seed=9), baseline=None)
    after = json.loads((tmp_path / "after/eval.json").read_text())
    assert after["seed"] == 9 and after["overall"]["win_rate"] is None
    assert not (tmp_path / "before").exists()
    assert np.isfinite(after["overall"]["reward_mean"])
