"""A run that starts from another run's policy starts with exactly it; the reference stays the pretrained model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_data.errors import ConfigError, DriftError
from ppod_data.generation.log_probs import compute_log_probs
from ppod_data.generation.sampling import build_policy
from ppod_train.data.batches import load_batch
from ppod_train.data.training_data import TrainingData, open_training_data
from ppod_train.distributed import Workers
from ppod_train.objectives import OBJECTIVES
from ppod_train.policy.policy import reference_network, save_policy, start_from, trainable_parameters
from ppod_train.run.prepare import prepare
from ppod_train.step.drift import measure_drift
from ppod_train.step.gradient import all_log_probs
from ppod_train.step.log_probs import batch_log_probs
from tests.ppod_train.conftest import source_of
from tests.support.models import load_again
from tests.support.training import SETTINGS, Killed, compared, run

ONE_STEP = replace(SETTINGS, num_train_steps=1, pairs_per_step=12, eval_every=0)


@dataclass(frozen=True)
class Stage:
    """A trained policy and the data set that it made, with the reference's log-probabilities."""

    lora_rank: int
    policy: Path
    model: DiffusionModel
    data: Path


@pytest.fixture(scope="module", params=[4, 0], ids=["lora", "all-weights"])
def stage(
    request: pytest.FixtureRequest,
    recorded: Path,
    tiny_pipeline: Path,
    record_dataset: Callable[..., Dataset],
    tmp_path_factory: pytest.TempPathFactory,
) -> Stage:
    folder, rank = tmp_path_factory.mktemp("stage"), request.param
    settings = replace(SETTINGS, lora_rank=rank, eval_every=0, learning_rate=1e-2 if rank else 1e-4)
    run(recorded, folder / "run", tiny_pipeline, None, settings)
    model = policy_model(folder / "run" / "policy", tiny_pipeline, rank)
    dataset = record_dataset(folder / "data", model, stage=1)
    compute_log_probs(dataset, load_again(tiny_pipeline), name="reference")
    return Stage(lora_rank=rank, policy=folder / "run" / "policy", model=model, data=folder / "data")


def policy_model(policy: Path, pipeline: Path, lora_rank: int) -> DiffusionModel:
    """A saved policy, loaded to sample from."""
    if lora_rank == 0:
        return load_model(str(policy))
    return load_model(str(pipeline), adapter=str(policy))


def opened(*roots: Path, model: DiffusionModel) -> TrainingData:
    return open_training_data(source_of(*roots), OBJECTIVES["ppod"], policy_fingerprint=model.fingerprint)


def test_the_start_has_exactly_the_saved_weights(
    stage: Stage, fresh_model: DiffusionModel, tmp_path: Path
) -> None:
    """Saved again, the same file; its fingerprint is the one that the policy's data sets carry."""
    parameters = trainable_parameters(fresh_model, lora_rank=stage.lora_rank, seed=7)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    fingerprint = start_from(fresh_model, stage.policy)
    assert fingerprint == stage.model.fingerprint == Dataset.open(stage.data).spec.policy_fingerprint
    assert any(not torch.equal(before[name], parameter) for name, parameter in parameters.items())
    assert all(parameter.requires_grad for parameter in parameters.values())
    save_policy(fresh_model, tmp_path / "again")
    name = "pytorch_lora_weights.safetensors"
    if not stage.lora_rank:
        name = "unet/diffusion_pytorch_model.safetensors"
    first, second = load_file(stage.policy / name), load_file(tmp_path / "again" / name)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_log_ratios_of_the_first_step_are_the_anchors_exactly(
    stage: Stage, fresh_model: DiffusionModel
) -> None:
    """On the data that the policy made: log π = log π_stage to the last bit, and the reference replays exactly too."""
    data = opened(stage.data, model=fresh_model)
    reference = reference_network(fresh_model, lora_rank=stage.lora_rank)
    trainable_parameters(fresh_model, lora_rank=stage.lora_rank, seed=0)
    start_from(fresh_model, stage.policy)
    policy = build_policy(replace(data.spec, prompts=data.prompts), fresh_model)
    batch = load_batch(data, data.units, data.steps, policy.prompts)
    like = batch.reference_log_probs
    moved = all_log_probs(batch_log_probs(policy, batch), like, chunk_size=8)
    fixed = all_log_probs(batch_log_probs(policy.with_network(reference), batch), like, chunk_size=8)
    assert torch.equal(fixed, batch.reference_log_probs)
    assert torch.equal(moved - batch.reference_log_probs, batch.targets.anchors)
    assert float(batch.targets.anchors.abs().max()) > 1e-4


def test_a_run_starts_where_the_other_one_ended(stage: Stage, tiny_pipeline: Path, tmp_path: Path) -> None:
    settings = replace(ONE_STEP, lora_rank=stage.lora_rank, log_ratio_clip=1e-3)
    _, steps = run(stage.data, tmp_path, tiny_pipeline, None, settings, start=stage.policy)
    data = opened(stage.data, model=load_again(tiny_pipeline))
    anchors = data.anchors[:, list(data.steps)]
    assert steps[0].log_ratio_max == np.abs(anchors).max()
    assert steps[0].per_timestep["log_ratio_max"] == np.abs(anchors).max(axis=0).tolist()
    assert steps[0].in_band_share == pytest.approx((np.abs(anchors) <= 1e-3).mean())
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["drift"]["overall_p99"] == 0.0 and record["drift"]["share_exact"] == 1.0
    assert record["outside_band_at_start"] == pytest.approx((np.abs(anchors) > 1e-3).mean())
    assert record["identity"]["start_fingerprint"] == stage.model.fingerprint
    assert record["identity"]["reference_fingerprint"] == load_again(tiny_pipeline).fingerprint


def test_at_its_start_the_policy_is_in_the_middle_of_the_stage_band(
    stage: Stage, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """However narrow the band: with the anchor `stage`, and for DDPO, whose ratio is 1."""
    for objective, changes in (("ppod", {"clip_anchor": "stage"}), ("ddpo", {"pairs_per_step": 8})):
        common = replace(ONE_STEP, objective=objective, lora_rank=stage.lora_rank, log_ratio_clip=1e-6)
        settings = replace(common, **changes)
        _, steps = run(stage.data, tmp_path / objective, tiny_pipeline, None, settings, start=stage.policy)
        assert steps[0].in_band_share == 1.0
        assert steps[0].gradient_share > 0.8
        if objective == "ddpo":
            assert steps[0].loss == pytest.approx(0.0, abs=1e-12)


def test_data_sets_of_two_stages_train_together_without_naming_a_table(
    stage: Stage, recorded: Path, tiny_pipeline: Path, fresh_model: DiffusionModel, tmp_path: Path
) -> None:
    """The reference's log-probabilities are the recorded ones where it made the data; elsewhere they are found by its
    fingerprint, whatever else lies beside them."""
    copy = tmp_path / "copy"
    shutil.copytree(stage.data, copy)
    compute_log_probs(Dataset.open(copy), stage.model, name="another")  # sorted before "reference"
    data = opened(recorded, copy, model=fresh_model)
    first = np.array([row["dataset"] == 0 for row in data.rows.to_pylist()])
    anchors = data.anchors[:, list(data.steps)]
    assert (anchors[first] == 0.0).all() and (anchors[~first] != 0.0).mean() > 0.9
    settings = replace(ONE_STEP, lora_rank=stage.lora_rank, pairs_per_step=24)
    _, steps = run([recorded, copy], tmp_path / "run", tiny_pipeline, None, settings, start=stage.policy)
    assert steps[0].log_ratio_max > 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["drift"]["share_exact"] == 1.0


def test_without_the_reference_s_table_the_way_out_is_named(
    stage: Stage, fresh_model: DiffusionModel, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(stage.data, copy)
    shutil.rmtree(copy / "log_probs")
    with pytest.raises(ConfigError, match="ppod-data log-probs"):
        opened(copy, model=fresh_model)
    compute_log_probs(Dataset.open(copy), stage.model, name="wrong")
    with pytest.raises(ConfigError, match="log_probs/wrong those of another model"):
        open_training_data(
            source_of(copy, reference_log_probs="wrong"),
            OBJECTIVES["ppod"],
            policy_fingerprint=fresh_model.fingerprint,
        )


def test_a_policy_of_another_rank_is_refused(stage: Stage, tiny_pipeline: Path, tmp_path: Path) -> None:
    for lora_rank in {0, 4, 8} - {stage.lora_rank}:
        settings = replace(ONE_STEP, lora_rank=lora_rank)
        with pytest.raises(ConfigError, match=r"has LoRA rank|is a whole pipeline"):
            run(stage.data, tmp_path, tiny_pipeline, None, settings, start=stage.policy)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", [4], indirect=True)
def test_a_policy_with_weights_that_would_be_lost_is_refused(
    stage: Stage, fresh_model: DiffusionModel, tmp_path: Path
) -> None:
    """LoRA on more layers than this one's: a start without them would be another policy."""
    weights = load_file(stage.policy / "pytorch_lora_weights.safetensors")
    save_file(
        weights | {"text_encoder.layer.lora.down.weight": torch.zeros(4, 16)},
        tmp_path / "pytorch_lora_weights.safetensors",
    )
    trainable_parameters(fresh_model, lora_rank=4, seed=0)
    with pytest.raises(ConfigError, match="text_encoder"):
        start_from(fresh_model, tmp_path)


def test_a_resumed_run_has_the_same_start(
    stage: Stage, recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """It goes on to the same bytes; without its start, it is another run."""
    settings = replace(SETTINGS, lora_rank=stage.lora_rank, eval_every=0)
    run(stage.data, tmp_path / "whole", tiny_pipeline, None, settings, start=stage.policy)
    for kill_at in (1, 3):
        out = tmp_path / str(kill_at)
        with pytest.raises(Killed):
            run(stage.data, out, tiny_pipeline, None, settings, start=stage.policy, kill_at=kill_at)
        with pytest.raises(ConfigError, match="start_fingerprint"):
            run(stage.data, out, tiny_pipeline, None, settings)
        run(stage.data, out, tiny_pipeline, None, settings, start=stage.policy)
        assert compared(out) == compared(tmp_path / "whole")


def test_drift_of_the_policy_that_made_the_data_is_refused(
    stage: Stage, tiny_pipeline: Path, record_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    """The reference replays exactly, from its table in fp32; the start does not, since it sampled in bf16."""
    half = load_model(
        str(stage.policy) if not stage.lora_rank else str(tiny_pipeline),
        adapter=str(stage.policy) if stage.lora_rank else None,
        compute_dtype="bf16",
    )
    dataset = record_dataset(tmp_path / "data", half)
    compute_log_probs(dataset, load_again(tiny_pipeline), name="reference")
    settings = replace(ONE_STEP, lora_rank=stage.lora_rank, log_ratio_clip=1e-5)
    with pytest.raises(DriftError, match="a tenth of the clip"):
        run(dataset.root, tmp_path / "run", tiny_pipeline, None, settings, start=stage.policy)


def test_drift_is_measured_on_the_data_of_the_policy_among_those_of_others(
    stage: Stage, recorded: Path, tiny_pipeline: Path
) -> None:
    settings = replace(ONE_STEP, lora_rank=stage.lora_rank)
    source, model = source_of(recorded, stage.data), load_again(tiny_pipeline)
    state, drift = prepare(source, model, settings, "", stage.policy, Workers())
    assert drift.share_exact == 1  # of the reference, on both data sets
    data, start = state.data, state.start_fingerprint
    own = data.units_of(data.made_by(start))
    assert own.tolist() == list(range(12, 24))  # the pairs of the second data set
    of_start, of_reference = (
        measure_drift(data, state.policy, num_trajectories=8, batch_size=8, maker=maker)
        for maker in (start, state.model.fingerprint)
    )
    assert of_start.share_exact == 1 and of_reference.share_exact < 1
    bands = [data.outside_band(1e-3, state.step_weights, start=maker) for maker in (start, "", "reference")]
    assert bands[0] == 2 * bands[1] == 2 * bands[2] > 0


@pytest.mark.parametrize("known", ["folder", "file", ""])
def test_the_clip_is_around_a_policy_that_is_replayed_where_it_is_at_hand(
    stage: Stage, tiny_pipeline: Path, record_dataset: Callable[..., Dataset], tmp_path: Path, known: str
) -> None:
    """Sampled in bf16 by a policy that training does not start from: its numbers are another precision's."""
    if not stage.lora_rank:  # whole pipelines are not loaded for it
        return
    policy = tmp_path / "policy"
    shutil.copytree(stage.policy, policy)
    if known == "file":
        policy = (policy / "pytorch_lora_weights.safetensors").rename(tmp_path / "mine.safetensors")
    dataset = record_dataset(
        tmp_path / "data", load_again(tiny_pipeline, adapter=str(policy), compute_dtype="bf16")
    )
    compute_log_probs(dataset, load_again(tiny_pipeline), name="reference")
    if not known:
        shutil.rmtree(policy)
    settings = replace(
        ONE_STEP, lora_rank=stage.lora_rank, log_ratio_clip=1e-5, clip_anchor="stage", gradient="two-pass"
    )
    source, model = source_of(dataset.root), load_again(tiny_pipeline)
    if known:
        with pytest.raises(DriftError, match="a tenth of the clip"):
            prepare(source, model, settings, "", None, Workers())
        return
    state, drift = prepare(source, model, settings, "", None, Workers())
    assert drift.unchecked and drift.share_exact == 1
    factors = [value for name, value in state.parameters.items() if "lora_B" in name]
    assert all(not value.any() for value in factors)
