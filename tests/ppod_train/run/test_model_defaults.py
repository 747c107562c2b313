"""Settings that depend on the model, weights of steps, and rounding once weights have moved."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.errors import ConfigError, DriftError
from ppod_data.generation.build_spec import build_spec
from ppod_train.data.batches import load_batch
from ppod_train.distributed import Workers
from ppod_train.objectives import OBJECTIVES
from ppod_train.run.model_defaults import check_subset, explain, explain_sensitivity, resolve
from ppod_train.run.prepare import prepare
from ppod_train.settings import TrainSettings
from ppod_train.step.drift import Drift, check_rounding, measure_rounding
from ppod_train.step.log_probs import batch_log_probs
from ppod_train.step.method import Method
from ppod_train.step.metrics import step_metrics
from ppod_train.step.step_weight import chain_sensitivity, step_weights, weighted
from ppod_train.step.train_step import batch_gradient, network_calls
from tests.ppod_train.conftest import source_of
from tests.ppod_train.step.test_network_gradient import double_network, moved
from tests.support import full_size
from tests.support.models import load_again


def spec_of(folder: Path, **options: Any) -> Any:
    return build_spec(load_skeleton(str(folder)), prompts=["a cat"], **options)


@pytest.mark.parametrize(
    ("save", "options", "rate", "clip"),
    [
        (full_size.save_stable_diffusion_15, {"guidance_scale": 5.0}, 2e-4, 0.0099),
        (
            full_size.save_stable_diffusion_15,
            {"guidance_scale": 7.5, "num_inference_steps": 50},
            1e-4,
            0.0035,
        ),
        (full_size.save_stable_diffusion_xl, {"num_inference_steps": 50}, 1e-4, 0.0035),
        (full_size.save_stable_diffusion_35_medium, {"num_inference_steps": 10}, 1e-4, 0.0010),
        (full_size.save_flux_1_dev, {"num_inference_steps": 6, "ddim_eta": 0.9}, 1e-4, 0.00079),
        (
            full_size.save_flux_2_klein,
            {"num_inference_steps": 10, "height": 512, "width": 512},
            1e-4,
            0.00021,
        ),
        (full_size.save_flux_2_dev, {"num_inference_steps": 10, "height": 512, "width": 512}, 1e-4, 0.00021),
        (full_size.save_lumina_2, {"num_inference_steps": 20}, 1e-4, 0.0002),
        (full_size.save_pixart_sigma, {"num_inference_steps": 20}, 1e-4, 0.018),
        (full_size.save_sana, {"num_inference_steps": 20}, 1e-4, 0.00062),
        (full_size.save_z_image_turbo, {"num_inference_steps": 9}, 1e-4, 0.001),
        (full_size.save_qwen_image, {"num_inference_steps": 20, "height": 512, "width": 512}, 1e-4, 0.0014),
    ],
)
def test_a_real_model_gets_settings_of_its_own(
    tmp_path: Path, save: Callable[[Path], Path], options: dict[str, Any], rate: float, clip: float
) -> None:
    folder = tmp_path / "model"
    save(folder)
    spec = spec_of(folder, **options)
    found = resolve(TrainSettings(), spec)
    assert (found.learning_rate, found.step_weight) == (rate, "k2")
    assert found.log_ratio_clip == pytest.approx(clip, rel=0.05)
    assert resolve(TrainSettings(lora_rank=0), spec).learning_rate == pytest.approx(rate / 100)
    given = TrainSettings(
        lora_rank=8, learning_rate=1.0, lr_scheduler="cosine", log_ratio_clip=2.0, step_weight="none"
    )
    assert resolve(given, spec) == given and explain(given, spec) == ""
    line = explain(TrainSettings(learning_rate=1.0), spec)
    assert "log_ratio_clip" in line and "learning_rate" not in line
    for objective in OBJECTIVES:
        expected = "k2" if "step_weight" in OBJECTIVES[objective].reads else "none"
        assert resolve(TrainSettings(objective=objective), spec).step_weight == expected


def test_scenes_keeps_the_settings_that_were_tuned_on_it() -> None:
    spec = build_spec(load_skeleton("scenes"), prompts=["a cat on the moon"])
    found = resolve(TrainSettings(), spec)
    assert (found.learning_rate, found.log_ratio_clip, found.step_weight) == (3e-3, 0.01, "none")
    assert "scenes" in explain(TrainSettings(), spec)
    assert resolve(TrainSettings(lora_rank=0), spec).learning_rate == 3e-3


def test_the_sensitivity_of_stable_diffusions_chain_is_the_scale_of_its_log_ratios(tmp_path: Path) -> None:
    """k = |dμ/dε| / σ by hand from ᾱ, and the clip in its units; the last step but one stands out."""
    folder = tmp_path / "model"
    full_size.save_stable_diffusion_15(folder)
    spec = spec_of(folder, guidance_scale=5.0)
    k = chain_sensitivity(spec)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    for step, (t, before) in enumerate(pairwise([*range(951, 0, -50), -49])):
        a, b = alphas[t], alphas[before] if before >= 0 else alphas[0]
        variance = (1 - b) / (1 - a) * (1 - a / b)
        by_hand = abs(-(b**0.5) * (1 - a) ** 0.5 / a**0.5 + max(1 - b - variance, 0) ** 0.5) / variance**0.5
        assert k[step] == pytest.approx(by_hand, rel=2e-3), step
    assert k.max() == pytest.approx(5.43, abs=0.01) and k.argmax() == 18
    line = explain_sensitivity(TrainSettings(log_ratio_clip=0.01, step_weight="none"), spec)
    assert "d = 0.2 at the median step, 0.026 at step 18" in line
    line = explain_sensitivity(TrainSettings(log_ratio_clip=0.01, step_weight="k2"), spec)
    assert "d = 0.2 at the median step, 0.2 at" in line


def test_step_weights_by_hand(recorded: Path) -> None:
    spec = Dataset.open(recorded).spec
    k = chain_sensitivity(spec)
    steps = [0, 2, 3]
    median = sorted(k[steps])[1]
    assert step_weights(spec, steps, "none").tolist() == [1.0] * 4
    for name, power in (("k", 1), ("k2", 2)):
        expected = [(median / k[0]) ** power, 1.0, (median / k[2]) ** power, (median / k[3]) ** power]
        np.testing.assert_allclose(step_weights(spec, steps, name), expected, rtol=1e-12)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_steps_without_noise_have_a_weight_of_1(recorded: Path) -> None:
    """An objective that reads x_0 alone may train on such steps alone."""
    spec = replace(Dataset.open(recorded).spec, noisy_steps="0:1")
    for name in ("none", "k", "k2"):
        assert step_weights(spec, [2, 3], name).tolist() == [1.0] * 4


METHODS: tuple[Method, ...] = ("whole-graph", "two-pass", "by-trajectory")


@pytest.mark.parametrize("objective", ["ppod", "ppod-mse", "prdp", "d3po"])
@pytest.mark.parametrize("step_weight", ["k", "k2"])
def test_gradients_with_step_weights_agree_in_float64(
    recorded: Path, tiny_pipeline: Path, objective: str, step_weight: str
) -> None:
    """In one pass, in two, and by autograd of the loss of weighted log-ratios, around the weighted anchors."""
    settings = TrainSettings(
        objective=objective,
        step_weight=step_weight,
        lora_rank=2,
        pairs_per_step=4,
        drift_samples=1,
        batch_size=5,
    )
    state, _ = prepare(source_of(recorded), load_again(tiny_pipeline), settings, "", None, Workers())
    unet = state.model.pipeline.unet.double()
    state = replace(state, policy=state.policy.with_network(double_network(unet)))
    moved(dict(state.parameters))
    data = replace(state.data, behaviour_log_probs=state.data.behaviour_log_probs + 0.001)
    plain = load_batch(data, data.units[:4], data.steps, state.policy.prompts)
    batch = weighted(plain, state.step_weights)
    torch.testing.assert_close(batch.targets.anchors, plain.targets.anchors * batch.step_weights)
    options = state.settings.loss_options()

    def gradient(method: Method) -> tuple[list[torch.Tensor], Any]:
        state.optimizer.zero_grad(set_to_none=True)
        done = batch_gradient(
            state, batch, options, step=0, method=method, groups=network_calls(state, batch)
        )
        found = [p.grad / done.scale for p in state.parameters.values() if p.grad is not None]
        return found, done

    evaluate = batch_log_probs(state.policy, batch)
    columns, rows = torch.ones_like(batch.reference_log_probs).T.nonzero(as_tuple=True)
    policy = evaluate(rows, columns).log_prob.view(len(data.steps), -1).T
    own = torch.from_numpy(step_weights(data.spec, data.steps, step_weight))
    state.optimizer.zero_grad(set_to_none=True)
    loss = OBJECTIVES[objective].loss((policy - batch.reference_log_probs) * own, batch.targets, options)
    torch.autograd.backward(loss)
    expected = [p.grad.clone() for p in state.parameters.values() if p.grad is not None]
    scale = max(float(value.abs().max()) for value in expected)
    for method in METHODS if objective != "d3po" else METHODS[:2]:
        found, done = gradient(method)
        assert done.loss == pytest.approx(float(loss.detach()), rel=1e-12)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * scale)
    seen = step_metrics(
        done, batch, options, step=1, grad_norm=1.0, learning_rate=1e-3, one_pass=False, seconds=0.0
    )
    assert seen.log_ratio_mean == pytest.approx(float((done.log_ratios * own).mean()))
    assert seen.kl_estimate == pytest.approx(float(-256 * done.log_ratios.sum(dim=1).mean()))


def test_rounding_is_found_though_an_untouched_policy_replays_exactly(
    record_dataset: Callable[..., Dataset], tiny_pipeline: Path, tmp_path: Path
) -> None:
    """bf16 rounds eight times as much as fp16, which is seen in the squares; the weights keep every bit."""
    found: dict[str, float] = {}
    for dtype in ("fp32", "fp16", "bf16"):
        model = load_again(tiny_pipeline, compute_dtype=dtype)
        root = tmp_path / dtype
        record_dataset(root, model, guidance_scale=5.0, num_images_per_prompt=4)
        settings = TrainSettings(lora_rank=4, drift_samples=2, log_ratio_clip=float("inf"))
        state, drift = prepare(source_of(root), model, settings, "", None, Workers())
        assert drift.share_exact == 1
        assert len(drift.rounding) == (0 if dtype == "fp32" else len(drift.steps))
        first = measure_rounding(state.data, state.policy, state.parameters, batch_size=8)
        assert drift.rounding in ((), first)
        moved(dict(state.parameters))
        before = {name: value.detach().clone() for name, value in state.parameters.items()}
        again = measure_rounding(state.data, state.policy, state.parameters, batch_size=3)
        assert all(torch.equal(value, before[name]) for name, value in state.parameters.items())
        assert max(again) < 10 * max(first)
        found[dtype] = max(first)
    assert found["fp32"] < found["fp16"] / 100
    assert 3 < found["bf16"] / found["fp16"] < 100


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"dpo_beta": 100.0}, True),
        ({"dpo_beta": 10.0}, False),
        ({"dpo_beta": 1000.0, "log_ratio_clip": 1e-4}, False),
        ({"dpo_beta": 100.0, "log_ratio_clip": float("inf")}, True),
        ({"dpo_beta": 100.0, "timesteps_per_update": 4}, False),
        ({"dpo_beta": 100.0, "timesteps_per_update": None}, False),
        ({"objective": "d3po", "dpo_beta": 100.0}, False),
    ],
)
def test_a_subset_of_timesteps_is_refused_where_it_would_bias_the_gradient(
    recorded: Path, changes: dict[str, Any], refused: bool
) -> None:
    settings = TrainSettings(**{"objective": "ppod", "timesteps_per_update": 2} | changes)
    settings = resolve(settings, Dataset.open(recorded).spec)
    if not refused:
        check_subset(settings, 4)
        return
    with pytest.raises(ConfigError, match="timesteps_per_update 2 of 4"):
        check_subset(settings, 4)


def test_rounding_is_measured_for_lora_alone(recorded: Path, tiny_pipeline: Path) -> None:
    """All weights train in fp32 only."""
    for settings in (
        TrainSettings(lora_rank=0, drift_samples=1),
        TrainSettings(objective="sft", lora_rank=2, drift_samples=1),
    ):
        _, drift = prepare(source_of(recorded), load_again(tiny_pipeline), settings, "", None, Workers())
        assert drift.rounding == ()


def test_rounding_above_a_tenth_of_the_clip_is_refused_and_the_way_out_named() -> None:
    drift = Drift(
        steps=(0, 1), median=(0, 0), p99=(0, 0), overall_p99=0, share_exact=1, rounding=(1e-4, 2e-3)
    )
    flat, even = np.ones(2), np.array([1.0, 0.1])
    with pytest.raises(
        DriftError, match=r"bf16.*step 1 by 2\.0e-03.*fp16.*--step-weight k2, or .*clip 0\.02 or"
    ):
        check_rounding(drift, 0.01, flat, "bf16", even_weights=even)
    with pytest.raises(DriftError, match="train in fp32"):
        check_rounding(drift, 0.01, flat, "fp16", even_weights=even)
    check_rounding(drift, 0.01, even, "bf16", even_weights=even)
    check_rounding(drift, 0.02, flat, "bf16", even_weights=even)


@pytest.mark.parametrize("weights", [np.ones(2), np.array([1.0, 0.1])], ids=["flat", "k2"])
def test_a_refusal_for_rounding_omits_step_weights_that_are_not_enough(weights: NDArray[np.float64]) -> None:
    drift = Drift(
        steps=(0, 1), median=(0, 0), p99=(0, 0), overall_p99=0, share_exact=1, rounding=(1e-4, 2.34e-3)
    )
    with pytest.raises(DriftError) as refused:
        check_rounding(drift, 1e-4, weights, "fp16", even_weights=np.array([1.0, 0.1]))
    assert "--step-weight" not in str(refused.value)
    width = float(str(refused.value).split("--log-ratio-clip ")[1].split()[0])
    check_rounding(drift, width, weights, "fp16", even_weights=weights)
