"""The policy as the moving average of the trained weights: what is kept, and that a resumed run has the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ppod_train.data.training_data import DataSource
from ppod_train.policy.policy import policy_weights, update_average
from ppod_train.run.train import train_offline
from ppod_train.settings import TrainSettings
from tests.support.models import load_again
from tests.support.training import Killed, Steps

SETTINGS = TrainSettings(
    num_train_steps=5,
    pairs_per_step=4,
    lora_rank=4,
    eval_every=0,
    checkpoint_every=2,
    learning_rate=1e-2,
    ema_decay=0.6,
)


def run(data: Path, out: Path, pipeline: Path, settings: TrainSettings = SETTINGS, kill_at: int = -1) -> None:
    train_offline(
        DataSource(roots=[data], pairs="pairs", scores="scenes"),
        out,
        settings,
        model=load_again(pipeline),
        reward=None,
        progress=Steps(kill_at),
    )


def policy(out: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(out / "policy" / POLICY_FILE))


POLICY_FILE = "pytorch_lora_weights.safetensors"


def test_the_kept_policy_is_the_average_of_the_weights_after_every_update(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """Runs of 1, 2, … updates without an average are the same trajectory of weights."""
    expected: dict[str, torch.Tensor] = {}
    for count in range(1, 4):
        out = tmp_path / f"plain-{count}"
        run(recorded, out, tiny_pipeline, replace(SETTINGS, ema_decay=0.0, num_train_steps=count))
        weights = policy(out)
        if not expected:  # the average starts at the start: a LoRA whose second factor is 0
            start = replace(SETTINGS, ema_decay=0.0, num_train_steps=1, learning_rate=1e-30)
            run(recorded, tmp_path / "start", tiny_pipeline, start)
            expected = policy(tmp_path / "start")
        expected = {name: 0.6 * expected[name] + 0.4 * weights[name] for name in weights}
    run(recorded, tmp_path / "averaged", tiny_pipeline, replace(SETTINGS, num_train_steps=3))
    found = policy(tmp_path / "averaged")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kill_at", [1, 3])
def test_a_killed_run_resumes_to_the_same_average(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path, kill_at: int
) -> None:
    run(recorded, tmp_path / "whole", tiny_pipeline)
    with pytest.raises(Killed):
        run(recorded, tmp_path / "killed", tiny_pipeline, kill_at=kill_at)
    run(recorded, tmp_path / "killed", tiny_pipeline)
    assert (tmp_path / "killed" / "policy" / POLICY_FILE).read_bytes() == (
        tmp_path / "whole" / "policy" / POLICY_FILE
    ).read_bytes()


def test_training_goes_on_from_the_trained_weights_not_from_the_average() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    average = {"w": torch.tensor([3.0])}
    update_average(average, {"w": parameter}, 0.5)
    assert float(average["w"]) == 2.0
    with policy_weights({"w": parameter}, average):
        assert float(parameter.detach()) == 2.0
    assert float(parameter.detach()) == 1.0
