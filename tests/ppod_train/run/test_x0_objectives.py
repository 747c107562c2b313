"""Objectives that read x_0 alone: every timestep of the chain, the policy that made the data, exact resume."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel, embed_prompts, load_model, network
from ppod_data.errors import ConfigError
from ppod_data.generation.log_probs import compute_log_probs
from ppod_train.data.training_data import open_training_data
from ppod_train.objectives import OBJECTIVES
from ppod_train.policy.frozen import frozen_network
from ppod_train.policy.policy import start_from, trainable_parameters
from ppod_train.settings import TrainSettings
from tests.ppod_train.conftest import source_of
from tests.support.models import load_again
from tests.support.pipelines import save_tiny_sd3_pipeline
from tests.support.training import Killed, compared, run

X0_OBJECTIVES = [name for name, one in OBJECTIVES.items() if one.on_final_latents]
MAKER_OBJECTIVES = [name for name in X0_OBJECTIVES if OBJECTIVES[name].compares_with == "maker"]


def settings_of(objective: str, **changes: object) -> TrainSettings:
    common = {
        "num_train_steps": 4,
        "pairs_per_step": 4,
        "lora_rank": 4,
        "eval_every": 0,
        "checkpoint_every": 2,
    }
    return TrainSettings(objective=objective, **common | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[4, 0], ids=["lora", "all-weights"])
def stage(
    request: pytest.FixtureRequest,
    recorded: Path,
    tiny_pipeline: Path,
    record_dataset: Callable[..., Dataset],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[int, Path, Path]:
    """LoRA rank, policy and data of the second stage of a training: the data are the policy's."""
    folder, rank = tmp_path_factory.mktemp("stage"), request.param
    settings = settings_of("diffusion-nft", lora_rank=rank, learning_rate=1e-2 if rank else 1e-4)
    run(recorded, folder / "run", tiny_pipeline, None, settings)
    policy = folder / "run" / "policy"
    model = load_model(str(tiny_pipeline), adapter=str(policy)) if rank else load_model(str(policy))
    dataset = record_dataset(folder / "data", model, stage=1)
    compute_log_probs(dataset, load_again(tiny_pipeline), name="reference")
    return rank, policy, dataset.root


@pytest.mark.parametrize("objective", MAKER_OBJECTIVES)
def test_a_later_stage_compares_with_the_policy_that_made_its_data(
    stage: tuple[int, Path, Path], tiny_pipeline: Path, tmp_path: Path, objective: str
) -> None:
    """All trajectories in the first step: the loss is 0, as it is at the reference in a first stage."""
    rank, policy, data = stage
    settings = settings_of(objective, lora_rank=rank, num_train_steps=1, pairs_per_step=8)
    _, steps = run(data, tmp_path, tiny_pipeline, None, settings, start=policy)
    assert steps[0].loss == pytest.approx(0.0, abs=1e-12) and steps[0].log_ratio_max < 1e-12
    assert steps[0].grad_norm > 0
    with_kl = replace(settings, kl_weight=1.0)
    _, steps = run(data, tmp_path / "kl", tiny_pipeline, None, with_kl, start=policy)
    assert steps[0].kl is not None and steps[0].kl > 1e-8  # to the reference, which is another policy here


def test_a_later_stage_that_was_killed_resumes_to_the_same_bytes(
    stage: tuple[int, Path, Path], tiny_pipeline: Path, tmp_path: Path
) -> None:
    """The policy that made the data is the start's, not that of the checkpoint."""
    rank, policy, data = stage
    settings = settings_of("diffusion-nft", lora_rank=rank)
    run(data, tmp_path / "whole", tiny_pipeline, None, settings, start=policy)
    with pytest.raises(Killed):
        run(data, tmp_path / "killed", tiny_pipeline, None, settings, start=policy, kill_at=3)
    run(data, tmp_path / "killed", tiny_pipeline, None, settings, start=policy)
    assert compared(tmp_path / "killed") == compared(tmp_path / "whole")


def test_data_of_a_policy_that_is_not_at_hand_or_of_two_are_refused(
    stage: tuple[int, Path, Path], recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    rank, policy, data = stage
    settings = settings_of("awm", lora_rank=rank)
    with pytest.raises(
        ConfigError, match=r"awm compares with the policy that made the data, and .* start from it"
    ):
        run(data, tmp_path / "run", tiny_pipeline, None, settings)
    with pytest.raises(ConfigError, match="two policies made these: train on the data of one"):
        run([recorded, data], tmp_path / "run", tiny_pipeline, None, settings, start=policy)
    assert not (tmp_path / "run").exists()


def test_a_frozen_network_stays_what_it_was(
    stage: tuple[int, Path, Path], fresh_model: DiffusionModel
) -> None:
    """To the last bit, when weights move; a gradient through the trained network is that without its calls."""
    lora_rank, policy, _ = stage
    parameters = trainable_parameters(fresh_model, lora_rank=lora_rank, seed=0)
    start_from(fresh_model, policy)
    generator = torch.Generator().manual_seed(0)
    condition = embed_prompts(fresh_model, ["a cat"], "", 1.0).of([0] * 3)
    asked = (torch.randn(3, 4, 8, 8, generator=generator), torch.tensor([901, 501, 1]), condition)
    frozen, trained = frozen_network(fresh_model, parameters, lora_rank=lora_rank), network(fresh_model)
    with torch.no_grad():
        expected = trained(*asked)
        assert torch.equal(frozen(*asked), expected)
        for parameter in parameters.values():
            parameter += 0.01
        assert torch.equal(frozen(*asked), expected)
        assert not torch.equal(trained(*asked), expected)
    gradients = []
    for calls in (False, True):
        output = trained(*asked)
        if calls:
            with torch.no_grad():
                frozen(*asked)
        gradients.append(
            torch.autograd.grad(output.square().sum(), list(parameters.values()), allow_unused=True)
        )
    assert any(one is not None and bool(one.any()) for one in gradients[0])
    for one, other in zip(*gradients, strict=True):
        assert (one is None and other is None) or (
            one is not None and other is not None and torch.equal(one, other)
        )


@pytest.mark.parametrize("options", [{"noisy_steps": "0:1"}, {"store_steps": "last:2"}])
@pytest.mark.parametrize("objective", X0_OBJECTIVES)
def test_every_timestep_is_trained_whatever_was_recorded(
    record_dataset: Callable[..., Dataset],
    tiny_model: DiffusionModel,
    tiny_pipeline: Path,
    tmp_path: Path,
    objective: str,
    options: dict[str, str],
) -> None:
    """As on data with all steps recorded; the replay checks those that are."""
    dataset = record_dataset(tmp_path / "data", tiny_model, **options)
    arguments = (source_of(dataset.root), OBJECTIVES[objective])
    data = open_training_data(*arguments, policy_fingerprint=tiny_model.fingerprint)
    assert data.steps == (0, 1, 2, 3)
    assert data.recorded_steps == ((0,) if "noisy_steps" in options else (2, 3))
    _, steps = run(dataset.root, tmp_path / "run", tiny_pipeline, None, settings_of(objective))
    assert steps[-1].per_timestep["steps"] == [0, 1, 2, 3] and steps[-1].grad_norm > 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["num_trained_steps"] == 4 and record["drift"]["steps"] == list(data.recorded_steps)
    assert record["drift"]["share_exact"] == 1.0
    few = open_training_data(*arguments, policy_fingerprint=tiny_model.fingerprint, trained_steps=range(1, 3))
    assert few.steps == (1, 2)


@pytest.mark.parametrize("objective", MAKER_OBJECTIVES)
def test_a_flow_matching_model_is_trained_on_its_velocities(
    record_dataset: Callable[..., Dataset], tmp_path: Path, objective: str
) -> None:
    pipeline = save_tiny_sd3_pipeline(tmp_path / "model")
    options = {"num_images_per_prompt": 4, "batch_size": 4, "noisy_steps": "0:1"}
    dataset = record_dataset(tmp_path / "data", load_again(pipeline), **options)
    settings = settings_of(objective, num_train_steps=6, learning_rate=1e-2)
    _, steps = run(dataset.root, tmp_path / "run", pipeline, None, settings)
    assert steps[0].loss == pytest.approx(0.0, abs=1e-6)
    assert steps[-1].log_ratio_max > 0 and steps[-1].per_timestep["steps"] == [0, 1, 2]
