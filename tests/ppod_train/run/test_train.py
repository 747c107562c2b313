"""A training run: untouched start, exact resume, what is kept, what is refused."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import load_model
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.sampling import sample_images
from ppod_data.publish.transfer import push
from ppod_data.storage.files import data_path
from ppod_train.policy.policy import trainable_parameters
from ppod_train.run.exclusive import only_run
from ppod_train.run.train import train_offline
from ppod_train.settings import TrainSettings
from tests.ppod_train.conftest import source_of, write_pairs
from tests.support.models import load_again
from tests.support.training import SETTINGS, Killed, compared, run


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


def test_a_killed_run_on_a_store_resumes_to_the_bytes_of_a_run_on_a_folder(
    recorded: Path, tiny_pipeline: Path, s3: tuple[Any, str], tmp_path: Path
) -> None:
    """From trajectories that are read ahead; killed where the next step's are on the way."""
    push(Dataset.open(recorded), s3[1])
    settings = replace(SETTINGS, eval_every=0, num_train_steps=4)
    run(recorded, tmp_path / "whole", tiny_pipeline, None, settings)
    store = [data_path(s3[1])]
    with pytest.raises(Killed):
        run(store, tmp_path / "killed", tiny_pipeline, None, settings, kill_at=3)
    run(store, tmp_path / "killed", tiny_pipeline, None, settings)
    ours, other = compared(tmp_path / "killed"), compared(tmp_path / "whole")
    assert ours["metrics"] == other["metrics"]
    weights = [name for name in other if name.endswith(".safetensors")]
    assert weights and all(ours[name] == other[name] for name in weights)


# Objectives whose step draws noise, has a second network, or reads latents for its advantages.
@pytest.mark.parametrize("objective", ["diffusion-dpo", "diffusion-nft", "dpok"])
def test_a_killed_run_of_any_objective_resumes_to_the_same_bytes(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path, objective: str
) -> None:
    settings = TrainSettings(
        objective=objective,
        num_train_steps=4,
        pairs_per_step=4,
        lora_rank=4,
        eval_every=0,
        checkpoint_every=2,
    )
    run(recorded, tmp_path / "whole", tiny_pipeline, None, settings)
    with pytest.raises(Killed):
        run(recorded, tmp_path / "killed", tiny_pipeline, None, settings, kill_at=3)
    run(recorded, tmp_path / "killed", tiny_pipeline, None, settings)
    assert compared(tmp_path / "killed") == compared(tmp_path / "whole")


def test_a_finished_run_is_left_as_it_is(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    run(recorded, tmp_path, tiny_pipeline, redness)
    before = compared(tmp_path)
    _, steps = run(recorded, tmp_path, tiny_pipeline, redness)
    assert steps == [] and compared(tmp_path) == before


def test_a_run_on_another_table_of_pairs_is_named_as_that(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, num_train_steps=1, eval_every=0)
    data = Path(shutil.copytree(recorded, tmp_path / "data"))
    write_pairs(Dataset.open(data), name="others")
    run(data, tmp_path / "run", tiny_pipeline, redness, settings)
    more = replace(settings, num_train_steps=2)
    with pytest.raises(ConfigError, match="holds a run on pairs/pairs, not pairs/others: give another --out"):
        run(data, tmp_path / "run", tiny_pipeline, redness, more, pairs="others")


def test_two_runs_in_one_folder_are_refused(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    """The second would remove the checkpoint that the first is writing."""
    out = tmp_path / "run"
    with only_run(out):
        (out / "run.json").write_text("{}")
        (out / "checkpoints" / ".step-000002.tmp").mkdir(parents=True)
        with pytest.raises(ConfigError, match="another ppod-train is running in this folder"):
            run(recorded, out, tiny_pipeline, redness)
        assert (out / "checkpoints" / ".step-000002.tmp").exists()
    assert run(recorded, out, tiny_pipeline, redness)[0].steps == SETTINGS.num_train_steps


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
    adapted = load_again(tiny_pipeline, adapter=str(tmp_path / "run" / "policy"))
    with pytest.raises(ConfigError, match="has the adapter"):
        trainable_parameters(adapted, lora_rank=4, seed=0)
    half = load_again(tiny_pipeline, compute_dtype="bf16")
    with pytest.raises(ConfigError, match="fp32 only"):
        trainable_parameters(half, lora_rank=0, seed=0)


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
    model = load_again(tiny_pipeline)
    train_offline(source_of(recorded), tmp_path, settings, model=model, reward=None)
    policy = tmp_path / "policy"
    ours = load_model(str(policy)) if lora_rank == 0 else load_model(str(tiny_pipeline), adapter=str(policy))
    spec = build_spec(model, prompts=["a cat"], num_images_per_prompt=2, num_inference_steps=3, batch_size=2)
    images = [
        [image.tobytes() for batch in sample_images(spec, m) for _, _, image in batch]
        for m in (model, ours, load_model(str(tiny_pipeline)))
    ]
    assert images[0] == images[1] != images[2]
    assert ours.fingerprint != load_again(tiny_pipeline).fingerprint

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


def test_with_a_kl_the_graph_is_kept_however_much_is_clipped(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """Every step has a KL, so all are back-propagated: a second pass would save nothing. Without one it does."""
    settings = replace(SETTINGS, log_ratio_clip=1e-6, learning_rate=1e-2, eval_every=0, num_train_steps=3)
    for kl_weight, expected in ((1.0, [True, True, True]), (0.0, [True, True, False])):
        out = tmp_path / str(kl_weight)
        _, steps = run(recorded, out, tiny_pipeline, None, replace(settings, kl_weight=kl_weight))
        assert steps[1].gradient_share < 0.5
        assert [metrics.one_pass for metrics in steps] == expected
        assert (steps[1].kl is not None) == (kl_weight > 0)
