"""A policy is loaded with its run's model, sampler and precision, unless the caller names another."""

import json
from pathlib import Path

import pytest

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError
from ppod_train.data.training_data import DataSource
from ppod_train.evaluation.settings import guidance_mode_of
from ppod_train.library.comparing import _baseline, _settings
from ppod_train.library.policies import base_of, load_policy, source_of
from ppod_train.library.training import device_for, opened_data

GENERATION = {
    "revision": "abc",
    "variant": "fp16",
    "compute_dtype": "bf16",
    "negative_prompt": "blurry",
    "num_inference_steps": 12,
    "guidance_scale": 3.0,
    "ddim_eta": 0.5,
    "noisy_steps": "0:6",
    "height": 64,
    "width": 32,
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with the files that name its model, and a LoRA."""
    folder = tmp_path / "run"
    (folder / "policy").mkdir(parents=True)
    record = {"model": "me/model", "prompts": ["a cat", "two dogs"], "generation": GENERATION}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_a_run_and_its_policy_name_the_model_of_the_run(run: Path) -> None:
    expected = ModelSource(
        model="me/model",
        revision="abc",
        variant="fp16",
        adapter=str(run / "policy"),
        compute_dtype="bf16",
    )
    for policy in (run, str(run), run / "policy", ModelSource(adapter=str(run / "policy"))):
        source, record = source_of(policy)
        assert source == expected
        assert record is not None and record.folder == run
    assert base_of(*source_of(run)) == ModelSource(
        model="me/model", revision="abc", variant="fp16", compute_dtype="bf16"
    )


def test_the_file_in_a_runs_policy_names_the_run(run: Path) -> None:
    file = run / "policy" / "pytorch_lora_weights.safetensors"
    assert source_of(ModelSource(adapter=str(file)))[1] is None  # a name without a file
    file.touch()
    source, record = source_of(ModelSource(adapter=str(file)))
    assert (source.model, source.adapter, source.compute_dtype) == ("me/model", str(file), "bf16")
    assert record is not None and record.folder == run and not record.whole
    assert source_of(file) == (source, record)
    other = run.parent / "mine.safetensors"
    other.touch()
    assert source_of(ModelSource(adapter=str(other)))[1] is None


def test_another_model_keeps_the_policy_without_the_runs_revision(run: Path) -> None:
    source, record = source_of(ModelSource(model="other", adapter=str(run / "policy")))
    assert record is not None
    assert (source.model, source.revision, source.variant) == ("other", None, None)
    named = ModelSource(adapter=str(run / "policy"), compute_dtype="fp32", revision="new")
    assert source_of(named)[0].compute_dtype == "fp32" and source_of(named)[0].revision == "new"


def test_whole_weights_are_their_own_model(run: Path) -> None:
    (run / "policy" / "model_index.json").write_text("{}")
    source, record = source_of(run)
    assert source == ModelSource(model=str(run / "policy"), compute_dtype="bf16")
    assert base_of(source, record) == ModelSource(
        model="me/model", revision="abc", variant="fp16", compute_dtype="bf16"
    )


def test_a_model_without_a_run_has_no_base(tmp_path: Path) -> None:
    source, record = source_of("me/model")
    assert (source, record) == (ModelSource(model="me/model"), None)
    assert base_of(source, record) is None
    with pytest.raises(ConfigError, match="holds no policy of a run"):
        load_policy(tmp_path)


def test_an_evaluation_has_the_sampler_of_the_run_and_the_changes(run: Path) -> None:
    record = source_of(run)[1]
    settings = _settings(record, {"guidance_scale": 5.0, "prompts": ["a fox"]})
    assert (settings.prompts, settings.guidance_scale, settings.num_inference_steps) == (("a fox",), 5.0, 12)
    assert (settings.height, settings.width, settings.noisy_steps) == (64, 32, "0:6")
    assert _settings(record, {}).prompts == ("a cat", "two dogs")
    assert _settings(record, {"num_inference_steps": 20}).noisy_steps is None
    with pytest.raises(ConfigError, match="no prompts"):
        _settings(None, {})


def test_an_evaluation_has_the_guidance_mode_of_the_run(run: Path) -> None:
    """That of an older run, whose record has none, is batched."""
    assert guidance_mode_of(_settings(source_of(run)[1], {})) == "batched"
    record = json.loads((run / "run.json").read_text())
    record["generation"]["guidance_mode"] = "sequential"
    (run / "run.json").write_text(json.dumps(record))
    record = source_of(run)[1]
    assert guidance_mode_of(_settings(record, {})) == "sequential"
    assert guidance_mode_of(_settings(record, {"guidance_mode": "batched"})) == "batched"
    with pytest.raises(ConfigError, match="guidance_mode both is unknown"):
        _settings(record, {"guidance_mode": "both"})


def test_a_baseline_is_the_start_unless_one_is_named(run: Path) -> None:
    source, record = source_of(run)
    assert _baseline(None, source, record) == base_of(source, record)
    assert _baseline("none", source, record) is None
    other = _baseline(ModelSource(adapter="lora"), source, record)
    assert isinstance(other, ModelSource) and (other.model, other.adapter) == ("me/model", "lora")


def test_a_table_that_the_objective_does_not_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="trains on pairs: leave --scores out"):
        opened_data(DataSource(roots=[], pairs="p", scores="s"), "ppod")
    with pytest.raises(ConfigError, match="single trajectories and their scores: leave --pairs out"):
        opened_data(DataSource(roots=[], pairs="p"), "ddpo")


def test_a_loaded_model_stays_on_its_device(tiny_model: DiffusionModel) -> None:
    assert device_for(tiny_model, "auto") == device_for(tiny_model, "cpu") == "cpu"
    assert device_for("scenes", "cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match="the model is on cpu, not on cuda"):
        device_for(tiny_model, "cuda")
