"""A run can be made longer, and its policy taken from any checkpoint."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppod_data.errors import ConfigError
from ppod_data.storage.files import sha256_file
from ppod_train.library.export import export_policy
from ppod_train.run.model_defaults import limit_graph
from tests.support.training import SETTINGS, Killed, compared, run

LORA = "pytorch_lora_weights.safetensors"
PLAIN = replace(SETTINGS, eval_every=0)


def test_a_longer_run_ends_in_the_bytes_of_one_that_was_long_from_the_start(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    run(recorded, tmp_path / "long", tiny_pipeline, None, PLAIN)
    run(recorded, tmp_path / "grown", tiny_pipeline, None, replace(PLAIN, num_train_steps=3))
    summary, steps = run(recorded, tmp_path / "grown", tiny_pipeline, None, PLAIN)
    assert summary.steps == 6
    assert [metrics.step for metrics in steps] == [4, 5, 6]
    whole, grown = compared(tmp_path / "long"), compared(tmp_path / "grown")
    for own in ("checkpoints/step-000004", "checkpoints/step-000003"):  # the short run ended on a checkpoint
        whole = {name: value for name, value in whole.items() if not name.startswith(own)}
        grown = {name: value for name, value in grown.items() if not name.startswith(own)}
    assert grown == whole
    record = json.loads((tmp_path / "grown/run.json").read_text())
    assert record["settings"]["num_train_steps"] == record["identity"]["num_train_steps"] == 6


def test_a_killed_run_with_a_falling_rate_resumes_to_the_same_bytes(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    settings = replace(PLAIN, learning_rate=1e-2, lr_scheduler="linear", lr_warmup_steps=1)
    _, steps = run(recorded, tmp_path / "whole", tiny_pipeline, None, settings)
    expected = [0, 1e-2, 8e-3, 6e-3, 4e-3, 2e-3]
    assert [metrics.learning_rate for metrics in steps] == pytest.approx(expected)
    with pytest.raises(Killed):
        run(recorded, tmp_path / "killed", tiny_pipeline, None, settings, kill_at=3)
    run(recorded, tmp_path / "killed", tiny_pipeline, None, settings)
    assert compared(tmp_path / "killed") == compared(tmp_path / "whole")
    longer = replace(settings, num_train_steps=9)
    with pytest.raises(ConfigError, match=r"falls to 0 at step 6 \(lr_scheduler linear\)"):
        run(recorded, tmp_path / "whole", tiny_pipeline, None, longer)


def test_a_run_that_stopped_early_goes_on_with_more_patience(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    impatient = replace(SETTINGS, eval_every=1, patience=1, learning_rate=1e-30)
    first, _ = run(recorded, tmp_path / "run", tiny_pipeline, redness, impatient)
    assert first.stopped_early and first.steps == 1
    second, _ = run(recorded, tmp_path / "run", tiny_pipeline, redness, replace(impatient, patience=0))
    assert second.steps == 6


def test_fewer_steps_than_were_done_are_refused_with_the_way_to_an_earlier_policy(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    run(recorded, tmp_path / "run", tiny_pipeline, None, PLAIN)
    with pytest.raises(
        ConfigError, match=r"has completed 6 steps.*ppod-train export .*step-000006 --out DIR"
    ):
        run(recorded, tmp_path / "run", tiny_pipeline, None, replace(PLAIN, num_train_steps=4))


def test_a_run_without_evaluations_has_a_policy_at_every_checkpoint(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(recorded, tmp_path / "run", tiny_pipeline, None, PLAIN, kill_at=3)
    run(recorded, tmp_path / "two", tiny_pipeline, None, replace(PLAIN, num_train_steps=2))
    assert sha256_file(tmp_path / "run/policy" / LORA) == sha256_file(tmp_path / "two/policy" / LORA)


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_an_exported_policy_is_the_one_that_the_run_would_have_kept(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path, ema_decay: float
) -> None:
    settings = replace(PLAIN, ema_decay=ema_decay)
    run(recorded, tmp_path / "run", tiny_pipeline, None, settings)
    newest = export_policy(tmp_path / "run", tmp_path / "newest")
    assert newest.step == 6 and not newest.whole
    assert sha256_file(tmp_path / "newest" / LORA) == sha256_file(tmp_path / "run/policy" / LORA)
    run(recorded, tmp_path / "short", tiny_pipeline, None, replace(settings, num_train_steps=4))
    export_policy(tmp_path / "run/checkpoints/step-000004/weights.safetensors", tmp_path / "fourth")
    assert sha256_file(tmp_path / "fourth" / LORA) == sha256_file(tmp_path / "short/policy" / LORA)


def test_the_policy_of_a_run_that_started_from_another_is_exported(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    run(recorded, tmp_path / "first", tiny_pipeline, None, PLAIN)
    run(recorded, tmp_path / "second", tiny_pipeline, None, PLAIN, start=tmp_path / "first/policy")
    export_policy(tmp_path / "second", tmp_path / "policy")
    assert sha256_file(tmp_path / "policy" / LORA) == sha256_file(tmp_path / "second/policy" / LORA)
    (tmp_path / "first").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="started from is not at"):
        export_policy(tmp_path / "second", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_policy_of_a_run_that_started_from_a_lora_file_is_exported(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    run(recorded, tmp_path / "first", tiny_pipeline, None, PLAIN)
    start = (tmp_path / "first/policy" / LORA).rename(tmp_path / "mine.safetensors")
    run(recorded, tmp_path / "second", tiny_pipeline, None, PLAIN, start=start)
    export_policy(tmp_path / "second", tmp_path / "policy")
    assert sha256_file(tmp_path / "policy" / LORA) == sha256_file(tmp_path / "second/policy" / LORA)
    start.unlink()
    with pytest.raises(ConfigError, match=r"is not at .*mine.safetensors.*: restore it"):
        export_policy(tmp_path / "second", tmp_path / "other")


def test_a_whole_pipeline_is_exported(recorded: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    settings = replace(PLAIN, lora_rank=0, learning_rate=1e-5, num_train_steps=2)
    run(recorded, tmp_path / "run", tiny_pipeline, None, settings)
    assert export_policy(tmp_path / "run", tmp_path / "policy").whole
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert sha256_file(tmp_path / "policy" / weights) == sha256_file(tmp_path / "run/policy" / weights)


def test_what_is_no_checkpoint_and_a_folder_that_exists_are_refused(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    run(recorded, tmp_path / "run", tiny_pipeline, None, replace(PLAIN, num_train_steps=1))
    with pytest.raises(ConfigError, match="not a checkpoint of a run"):
        export_policy(recorded, tmp_path / "policy")
    with pytest.raises(ConfigError, match="exists: give a new folder"):
        export_policy(tmp_path / "run", tmp_path / "run")


def test_the_graph_may_take_a_third_of_a_gpu_and_four_gib_of_a_cpu() -> None:
    assert limit_graph(PLAIN, "cpu").graph_limit == 4 * 2**30
    assert limit_graph(replace(PLAIN, max_graph_gib=2.0), "cuda").graph_limit == 2 * 2**30
