"""A training run: untouched start, exact resume, what is kept, what is refused."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ppod_data.dataset import Dataset
from ppod_data.diffusion.model import DiffusionModel, load_model
from ppod_data.errors import ConfigError, DamagedError, DriftError
from ppod_data.files import sha256_file
from ppod_data.generate import build_spec, sample_images
from ppod_data.log_probs import compute_log_probs
from ppod_train.batches import open_preferences, pairs_of_step, timesteps_of_step
from ppod_train.metrics import StepMetrics
from ppod_train.policy import trainable_parameters
from ppod_train.settings import TrainSettings
from ppod_train.train import Callbacks, TrainSummary, train_offline

SETTINGS = TrainSettings(
    num_train_steps=6,
    pairs_per_step=4,
    lora_rank=4,
    log_ratio_clip=0.01,
    eval_every=3,
    eval_images_per_prompt=4,
    checkpoint_every=2,
    patience=0,
)


class Killed(Exception):
    """Stands for the end of a process between two steps."""


def run(
    data: Path,
    out: Path,
    pipeline: Path,
    reward: Any,
    settings: TrainSettings = SETTINGS,
    *,
    kill_at: int = -1,
) -> tuple[TrainSummary, list[StepMetrics]]:
    """Train as a fresh process would."""
    steps: list[StepMetrics] = []

    def on_step(metrics: StepMetrics) -> None:
        steps.append(metrics)
        if metrics.step == kill_at:
            raise Killed

    model = load_model(str(pipeline))
    summary = train_offline(
        [data], "pairs", out, settings, model=model, reward=reward, callbacks=Callbacks(on_step=on_step)
    )
    return summary, steps


def compared(out: Path) -> dict[str, str]:
    """What must be the same for a resumed run: all but times and the tracker's event files."""
    files = {
        path.relative_to(out).as_posix(): sha256_file(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts and path.name != "metrics.jsonl"
    }
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return files | {
        "metrics": json.dumps([{k: v for k, v in line.items() if k != "seconds"} for line in lines])
    }


def test_an_untouched_policy_is_the_reference_exactly(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    """All four trajectories of a prompt's pairs in one batch: log-ratio exactly 0, loss exactly ln 2."""
    _, steps = run(
        recorded,
        tmp_path / "run",
        tiny_pipeline,
        redness,
        replace(SETTINGS, pairs_per_step=12, num_train_steps=1),
    )
    assert steps[0].log_ratio_max == 0.0
    assert steps[0].loss == pytest.approx(math.log(2), abs=1e-15)
    assert steps[0].preference_accuracy == 0.5
    drift = json.loads((tmp_path / "run" / "run.json").read_text())["drift"]
    assert drift["overall_p99"] == 0.0 and drift["share_exact"] == 1.0


@pytest.mark.parametrize("kill_at", [1, 2, 3, 5])
def test_a_killed_run_resumes_to_the_same_bytes(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path, kill_at: int
) -> None:
    run(recorded, tmp_path / "whole", tiny_pipeline, redness)
    with pytest.raises(Killed):
        run(recorded, tmp_path / "killed", tiny_pipeline, redness, kill_at=kill_at)
    run(recorded, tmp_path / "killed", tiny_pipeline, redness)
    assert compared(tmp_path / "killed") == compared(tmp_path / "whole")


def test_a_finished_run_is_left_as_it_is(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    run(recorded, tmp_path, tiny_pipeline, redness)
    before = compared(tmp_path)
    _, steps = run(recorded, tmp_path, tiny_pipeline, redness)
    assert steps == [] and compared(tmp_path) == before


def test_other_settings_on_an_existing_run_are_refused(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    run(recorded, tmp_path, tiny_pipeline, redness)
    with pytest.raises(ConfigError, match=r"dpo_beta.*10\.0.*20"):
        run(recorded, tmp_path, tiny_pipeline, redness, replace(SETTINGS, dpo_beta=20.0))


def test_a_damaged_checkpoint_is_named(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    run(recorded, tmp_path, tiny_pipeline, redness)
    weights = tmp_path / "checkpoints" / "step-000006" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DamagedError, match="step-000006"):
        run(recorded, tmp_path, tiny_pipeline, redness)


def test_a_damaged_state_is_named(recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path) -> None:
    run(recorded, tmp_path, tiny_pipeline, redness)
    state = tmp_path / "checkpoints" / "step-000006" / "state.json"
    state.write_text(state.read_text()[:50])
    with pytest.raises(DamagedError, match="step-000006"):
        run(recorded, tmp_path, tiny_pipeline, redness)


def test_another_reward_on_an_existing_run_is_refused(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    class Other:
        name, revision = "other", "1"
        score = redness.score

    run(recorded, tmp_path, tiny_pipeline, redness)
    with pytest.raises(ConfigError, match=r"scorer 'redness 1', not 'other 1'"):
        run(recorded, tmp_path, tiny_pipeline, Other())


def test_what_cannot_be_trained_is_refused(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path, redness: Any
) -> None:
    run(recorded, tmp_path / "run", tiny_pipeline, redness)
    adapted = load_model(str(tiny_pipeline), adapter=str(tmp_path / "run" / "policy"))
    with pytest.raises(ConfigError, match="has the adapter"):
        trainable_parameters(adapted, lora_rank=4, seed=0)
    half = load_model(str(tiny_pipeline), compute_dtype="bf16")
    with pytest.raises(ConfigError, match="fp32 only"):
        trainable_parameters(half, lora_rank=0, seed=0)


def test_drift_of_the_second_data_set_is_seen(
    recorded: Path, fresh_model: DiffusionModel, record_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    """The first data set replays exactly; the second one's log-probabilities are another precision's."""
    other = record_dataset(tmp_path / "other", fresh_model, seed=1)
    compute_log_probs(Dataset.open(recorded), fresh_model, name="mixed")
    half = load_model(fresh_model.name, compute_dtype="bf16")
    compute_log_probs(other, half, name="mixed")
    with pytest.raises(DriftError, match="worst"):
        train_offline(
            [recorded, other.root],
            "pairs",
            tmp_path / "run",
            replace(SETTINGS, log_ratio_clip=1e-5, eval_every=0),
            model=fresh_model,
            reward=None,
            reference_log_probs="mixed",
        )


def test_a_fully_clipped_step_is_the_same_update_in_one_pass_and_two(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """After a large first step nothing is in the band: momentum still moves the weights, in both ways alike."""
    settings = replace(SETTINGS, log_ratio_clip=1e-6, learning_rate=1e-2, eval_every=0, num_train_steps=4)
    ends = {}
    for gradient in ("one-pass", "two-pass"):
        _, steps = run(
            recorded, tmp_path / gradient, tiny_pipeline, None, replace(settings, gradient=gradient)
        )
        ends[gradient] = [metrics.log_ratio_mean for metrics in steps]
    assert ends["one-pass"] == pytest.approx(ends["two-pass"], rel=1e-3)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_plain_diffusers_loads_the_kept_policy(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path, lora_rank: int
) -> None:
    """The images of the policy in memory, of our loader and of plain diffusers are the same."""
    from diffusers import StableDiffusionPipeline

    settings = replace(SETTINGS, lora_rank=lora_rank, eval_every=0, learning_rate=1e-2)
    model = load_model(str(tiny_pipeline))
    train_offline([recorded], "pairs", tmp_path, settings, model=model, reward=None)
    policy = tmp_path / "policy"
    ours = load_model(str(policy)) if lora_rank == 0 else load_model(str(tiny_pipeline), adapter=str(policy))
    spec = build_spec(model, prompts=["a cat"], num_images_per_prompt=2, num_inference_steps=3, batch_size=2)
    images = [
        [image.tobytes() for batch in sample_images(spec, m) for _, _, image in batch]
        for m in (model, ours, load_model(str(tiny_pipeline)))
    ]
    assert images[0] == images[1] != images[2]
    assert ours.fingerprint != load_model(str(tiny_pipeline)).fingerprint

    plain = StableDiffusionPipeline.from_pretrained(
        tiny_pipeline if lora_rank else policy, safety_checker=None
    )
    if lora_rank:
        plain.load_lora_weights(policy)
    plain.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "latents": latents, "output_type": "np"}
    assert (plain("a cat", **options).images == ours.pipeline("a cat", **options).images).all()


def test_the_best_policy_is_kept_and_training_stops_early(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    class Falling:
        """Every evaluation is worse than the one before."""

        name, revision = "falling", "1"
        calls = 0

        def score(self, prompts: Any, images: Any) -> list[float]:
            self.calls += 1
            return [-float(self.calls)] * len(images)

    settings = replace(SETTINGS, num_train_steps=50, eval_every=1, patience=2)
    summary, steps = run(recorded, tmp_path, tiny_pipeline, Falling(), settings)
    assert summary.best_step == 0 and summary.steps == len(steps) == 2
    assert summary.stopped_early
    assert summary.reward_queries == 3 * 2 * 4


def test_training_moves_the_policy_towards_the_chosen(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    settings = replace(
        SETTINGS, num_train_steps=60, pairs_per_step=12, learning_rate=1e-2, eval_every=0, log_ratio_clip=1.0
    )
    _, steps = run(recorded, tmp_path, tiny_pipeline, None, settings)
    assert steps[-1].preference_accuracy > 0.9
    assert steps[-1].loss < steps[0].loss - 0.01


def test_batches_of_8_by_1_equal_4_by_2(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    """The network's batch size is a matter of memory: losses and gradient norms agree to rounding."""
    runs = [
        run(
            recorded,
            tmp_path / str(size),
            tiny_pipeline,
            None,
            replace(SETTINGS, batch_size=size, eval_every=0),
        )[1]
        for size in (8, 3)
    ]
    for a, b in zip(*runs, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-2)


def test_one_pass_and_two_pass_runs_agree(recorded: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    runs = {
        gradient: run(
            recorded,
            tmp_path / gradient,
            tiny_pipeline,
            None,
            replace(SETTINGS, gradient=gradient, eval_every=0),
        )[1]
        for gradient in ("one-pass", "two-pass", "auto")
    }
    assert [m.one_pass for m in runs["one-pass"]] == [True] * 6
    assert [m.one_pass for m in runs["two-pass"]] == [False] * 6
    assert runs["auto"][0].one_pass
    for a, b in zip(runs["one-pass"], runs["two-pass"], strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-3)


def test_pairs_of_an_epoch_are_each_seen_once(recorded: Path, tiny_model: DiffusionModel) -> None:
    data = open_preferences([recorded], "pairs", policy_fingerprint=tiny_model.fingerprint)
    seen = [int(i) for step in range(3) for i in pairs_of_step(data, step=step, pairs_per_step=4, seed=0)]
    assert sorted(seen) == list(range(12))
    other = [int(i) for step in range(3) for i in pairs_of_step(data, step=step, pairs_per_step=4, seed=1)]
    assert other != seen and sorted(other) == sorted(seen)


def test_a_subset_of_timesteps_is_ascending_and_changes(recorded: Path, tiny_model: DiffusionModel) -> None:
    data = open_preferences([recorded], "pairs", policy_fingerprint=tiny_model.fingerprint)
    subsets = [timesteps_of_step(data, step=i, timesteps_per_update=2, seed=0) for i in range(20)]
    assert all(len(set(subset)) == 2 and subset == sorted(subset) for subset in subsets)
    assert {step for subset in subsets for step in subset} == set(data.steps)
    assert timesteps_of_step(data, step=0, timesteps_per_update=None, seed=0) == list(data.steps)


def test_a_data_set_of_another_model_is_refused(
    recorded: Path, tmp_path: Path, tiny_model: DiffusionModel
) -> None:
    with pytest.raises(ConfigError, match="another model"):
        open_preferences([recorded], "pairs", policy_fingerprint="0" * 64)
    with pytest.raises(ConfigError, match="no pairs named 'best'"):
        open_preferences([recorded], "best", policy_fingerprint=tiny_model.fingerprint)


def test_drift_over_a_tenth_of_the_clip_is_refused(
    fresh_model: DiffusionModel,
    tiny_pipeline: Path,
    record_dataset: Callable[..., Dataset],
    tmp_path: Path,
    redness: Any,
) -> None:
    """Data made in bf16 and replayed in fp32: the way out is named."""
    bf16 = load_model(str(tiny_pipeline), compute_dtype="bf16")
    dataset = record_dataset(tmp_path / "data", bf16)
    with pytest.raises(DriftError, match="ppod-data log-probs"):
        train_offline(
            [dataset.root],
            "pairs",
            tmp_path / "run",
            replace(SETTINGS, log_ratio_clip=1e-5),
            model=fresh_model,
            reward=redness,
        )
    assert not (tmp_path / "run").exists()


def test_recomputed_log_probs_are_the_way_out_of_drift(
    fresh_model: DiffusionModel,
    tiny_pipeline: Path,
    record_dataset: Callable[..., Dataset],
    tmp_path: Path,
) -> None:
    """The data of a bf16 sampler, trained in fp32 on log-probabilities recomputed in fp32: no drift at all."""
    dataset = record_dataset(tmp_path / "data", load_model(str(tiny_pipeline), compute_dtype="bf16"))
    summary = compute_log_probs(dataset, fresh_model, name="fp32")
    assert summary.num_computed == 16 and summary.max_difference is not None
    assert 1e-6 < summary.max_difference < 0.1
    assert compute_log_probs(dataset, fresh_model, name="fp32").num_computed == 0
    settings = replace(SETTINGS, log_ratio_clip=1e-5, eval_every=0)
    train_offline(
        [dataset.root],
        "pairs",
        tmp_path / "run",
        settings,
        model=fresh_model,
        reward=None,
        reference_log_probs="fp32",
    )
    assert json.loads((tmp_path / "run" / "run.json").read_text())["drift"]["overall_p99"] < 1e-6
    with pytest.raises(ConfigError, match="another --name"):
        compute_log_probs(dataset, fresh_model, name="fp32", batch_size=3)


def test_a_damaged_trajectory_stops_training(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(recorded, copy)
    tar = next((copy / "trajectories").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    row = (
        Dataset.open(copy)
        .trajectory_index([Dataset.open(copy).pairs("pairs")["chosen_id"][0].as_py()])
        .to_pylist()[0]
    )
    data[row["traj_offset"] + row["traj_nbytes"] // 2] ^= 1
    tar.write_bytes(bytes(data))
    with pytest.raises(DamagedError, match=row["sample_id"]):
        run(copy, tmp_path / "run", tiny_pipeline, redness, replace(SETTINGS, pairs_per_step=12))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"objective": "dpo"}, "objective dpo"),
        ({"log_ratio_clip": 0.0}, "log_ratio_clip"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"num_train_steps": 0}, "num_train_steps"),
        ({"timesteps_per_update": 0}, "timesteps_per_update"),
        ({"lora_rank": -1}, "lora_rank"),
        ({"gradient": "three-pass"}, "three-pass"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        replace(SETTINGS, **options).validate()


def test_every_setting_is_read() -> None:
    """A field that nothing reads is a dead knob."""
    import dataclasses

    import ppod_train

    folder = Path(next(iter(ppod_train.__path__)))
    source = "".join(path.read_text() for path in folder.rglob("*.py") if path.name != "settings.py")
    for field in dataclasses.fields(TrainSettings):
        assert f"settings.{field.name}" in source, f"nothing reads {field.name}"
