"""The flow-matching chain: the scheduler's own sigmas, its step without noise, and the right distribution with it."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.flow import build_flow_schedule, flow_chain, flow_config
from ppod_data.diffusion.gaussian import log_prob, sample_next
from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_data.diffusion.schedule import build_schedule
from ppod_data.errors import ConfigError
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.generation.log_probs import compute_log_probs
from ppod_data.generation.sampling import build_policy, sample_batch
from ppod_data.library.generating import make
from tests.support.pipelines import save_tiny_flux_pipeline, save_tiny_sd3_pipeline

SMALLEST = 1e-30
"""A noise level whose noise is rounded away."""


def config(*, sigmas_from_one: bool = False, **options: Any) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    return flow_config(scheduler, image_seq_len=1024, sigmas_from_one=sigmas_from_one)


CONFIGS: Mapping[str, dict[str, Any]] = {
    "sd-3": config(shift=3.0),
    "sd-3-dynamic": config(shift=3.0, use_dynamic_shifting=True),
    "flux-dev": config(shift=3.0, use_dynamic_shifting=True, sigmas_from_one=True),
    "flux-schnell": config(shift=1.0, sigmas_from_one=True),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("num_steps", [2, 4, 28])
def test_sigmas_are_the_schedulers_own_also_after_json(name: str, num_steps: int) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    options = {key: value for key, value in CONFIGS[name].items() if key not in ("mu", "sigmas_from_one")}
    theirs = FlowMatchEulerDiscreteScheduler(**options)
    given = np.linspace(1.0, 1 / num_steps, num_steps) if "flux" in name else None
    theirs.set_timesteps(num_steps, sigmas=given, mu=CONFIGS[name].get("mu"))
    chain = json.loads(json.dumps(flow_chain(CONFIGS[name], num_steps)))
    ours = build_flow_schedule(chain, num_steps, 0.7)
    assert torch.equal(torch.tensor(chain["sigmas"]), theirs.sigmas)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert ours.stochastic == (True,) * (num_steps - 1) + (False,)


@pytest.mark.parametrize("name", CONFIGS)
def test_without_noise_a_step_is_the_schedulers_bit_for_bit(name: str) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler()
    theirs.sigmas = torch.tensor(flow_chain(CONFIGS[name], 12)["sigmas"])
    ours = build_flow_schedule(flow_chain(CONFIGS[name], 12), 12, SMALLEST)
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        latents, velocity, noise = torch.randn(3, 2, 4, 8, 8, generator=generator).unbind()
        theirs._step_index = step
        expected = theirs.step(velocity, ours.timesteps[step], latents, return_dict=False)[0]
        index = torch.full((2,), step)
        mean = ours.mean(index, velocity, latents)
        assert torch.equal(sample_next(ours, index, mean, noise, torch.float32), expected)


@pytest.mark.parametrize("noise_level", [0.3, 0.7, 1.0])
def test_a_step_is_flow_grpos(noise_level: float) -> None:
    """Its Eq. 9, the first step's other denominator included, term by term in fp64; the last step has no noise."""
    chain = flow_chain(CONFIGS["sd-3"], 10)
    ours = build_flow_schedule(chain, 10, noise_level)
    latents, velocity = torch.randn(
        2, 10, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    means = ours.mean(torch.arange(10), velocity, latents)
    for step, (sigma, following) in enumerate(zip(chain["sigmas"], chain["sigmas"][1:], strict=False)):
        g = noise_level * math.sqrt(sigma / (1 - (chain["sigmas"][1] if step == 0 else sigma)))
        g = 0.0 if step == 9 else g
        score = -(latents[step] + (1 - sigma) * velocity[step]) / sigma
        drift = velocity[step] - g**2 / 2 * score
        torch.testing.assert_close(
            means[step], latents[step] + drift * (following - sigma), rtol=1e-6, atol=1e-6
        )
        assert float(ours.std[step]) == pytest.approx(g * math.sqrt(sigma - following), rel=1e-6)


DATA_MEAN, DATA_STD = 1.5, 0.6


def ended(num_steps: int, noise_level: float) -> tuple[float, float]:
    """Mean and standard deviation of x_0 for Gaussian data and its exact velocity, without sampling.

    For x_0 ~ N(m, s²) the velocity E[noise − x_0 | x_σ] is linear in x_σ: b·(x − (1 − σ)·m) − m with
    b = (σ − (1 − σ)·s²) / ((1 − σ)²·s² + σ²). So every x is Gaussian, and a step maps its mean and variance.
    """
    schedule = build_flow_schedule(flow_chain(config(), num_steps), num_steps, noise_level)
    mean, variance = 0.0, 1.0
    columns = (schedule.sigma, schedule.latent_weight, schedule.velocity_weight, schedule.std)
    for sigma, weight, velocity_weight, std in torch.stack(columns).double().T.tolist():
        b = (sigma - (1 - sigma) * DATA_STD**2) / ((1 - sigma) ** 2 * DATA_STD**2 + sigma**2)
        velocity = b * (mean - (1 - sigma) * DATA_MEAN) - DATA_MEAN
        mean = weight * mean + velocity_weight * velocity
        variance = (weight + velocity_weight * b) ** 2 * variance + std**2
    return mean, math.sqrt(variance)


@pytest.mark.parametrize("noise_level", [SMALLEST, 0.3, 0.7, 1.0])
def test_with_the_exact_velocity_the_data_come_out(noise_level: float) -> None:
    """At every noise level x_0 has the data's mean, exactly, since the mean of x_σ moves along a line; and its
    deviation up to an Euler step's first order and what is left of the first steps' excess variance: that of the first
    is a⁴/4 at every T, and the chain forgets it like T^(−a²)."""
    for num_steps in (10, 50, 200, 800):
        mean, std = ended(num_steps, noise_level)
        assert mean == pytest.approx(DATA_MEAN, abs=1e-6)
        excess = noise_level**4 / 4 * num_steps ** -(noise_level**2)
        assert abs(std - DATA_STD) < 1 / num_steps + excess


def test_a_sampled_chain_has_the_distribution_of_the_closed_form() -> None:
    """The same linear velocity through `sample_next`: mean and deviation within five standard errors."""
    schedule = build_flow_schedule(flow_chain(config(), 20), 20, 0.7)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(64, 4, 16, 16, generator=generator)
    for step, sigma in enumerate(schedule.sigma.tolist()):
        b = (sigma - (1 - sigma) * DATA_STD**2) / ((1 - sigma) ** 2 * DATA_STD**2 + sigma**2)
        velocity = b * (latents - (1 - sigma) * DATA_MEAN) - DATA_MEAN
        index = torch.full((64,), step)
        noise = torch.randn(latents.shape, generator=generator)
        latents = sample_next(schedule, index, schedule.mean(index, velocity, latents), noise, torch.float32)
    mean, std = ended(20, 0.7)
    count = latents.numel()
    assert float(latents.mean()) == pytest.approx(mean, abs=5 * std / count**0.5)
    assert float(latents.std()) == pytest.approx(std, abs=5 * std / (2 * count) ** 0.5)


def test_log_prob_is_torch_distributions_mean_in_float64() -> None:
    schedule = build_flow_schedule(flow_chain(CONFIGS["flux-dev"], 20), 20, 0.7)
    mean, next_latents = torch.randn(
        2, 19, 4, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    std = schedule.std.double()[:19].view(-1, 1, 1, 1)
    expected = torch.distributions.Normal(mean, std).log_prob(next_latents).mean(dim=(1, 2, 3))
    double = replace(schedule, std=schedule.std.double())
    torch.testing.assert_close(
        log_prob(double, torch.arange(19), mean, next_latents), expected, rtol=1e-13, atol=1e-12
    )


def test_the_forward_process_is_diffusers_own() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    schedule = build_flow_schedule(flow_chain(CONFIGS["sd-3"], 8), 8, 0.7)
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(8)
    final, noise = torch.randn(2, 8, 4, 8, 8, generator=torch.Generator().manual_seed(3)).unbind()
    steps = torch.arange(8)
    noised = schedule.noised(steps, final, noise)
    torch.testing.assert_close(noised, theirs.scale_noise(final, schedule.timesteps, noise))
    sigma = schedule.sigma.view(-1, 1, 1, 1)
    torch.testing.assert_close(noised - sigma * schedule.target(steps, final, noise), final)


@pytest.mark.parametrize(
    ("chain", "num_steps", "noise_level", "named"),
    [
        ({"sigmas": [1.0, 0.5, 0.0]}, 3, 0.7, "no chain of 3 steps"),
        ({"sigmas": [1.0, 0.0]}, 1, 0.7, "no chain of 1 steps"),
        ({"sigmas": [1.0, 0.5, 0.5, 0.0]}, 3, 0.7, "falling"),
        ({"sigmas": [1.5, 0.5, 0.0]}, 2, 0.7, "at most 1"),
        ({"sigmas": [1.0, 0.5, 0.1]}, 2, 0.7, "to 0"),
        ({"sigmas": "1, 0.5, 0"}, 2, 0.7, "must be a list"),
        ({"sigmas": [1.0, "0.5", 0.0]}, 2, 0.7, "must be a list of numbers"),
        ({"sigmas": [1.0, 0.5, 0.0], "num_train_timesteps": "1000"}, 2, 0.7, "num_train_timesteps"),
        ({"sigmas": [1.0, 0.5, 0.0]}, 2, 0.0, "ddim_eta"),
        ({"sigmas": [1.0, 0.5, 0.0]}, 2, 1.1, "ddim_eta"),
    ],
)
def test_what_is_no_chain_is_refused_by_name(
    chain: dict[str, Any], num_steps: int, noise_level: float, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        build_schedule({"num_train_timesteps": 1000} | chain, num_steps, noise_level)


def test_what_makes_no_chain_is_refused_by_name() -> None:
    from diffusers import EulerDiscreteScheduler

    with pytest.raises(ConfigError, match="invert_sigmas"):
        config(invert_sigmas=True)
    with pytest.raises(ConfigError, match="EulerDiscreteScheduler"):
        flow_config(EulerDiscreteScheduler(), image_seq_len=64, sigmas_from_one=False)
    for num_steps in (1, 1001):
        with pytest.raises(ConfigError, match="num_inference_steps"):
            flow_chain(config(), num_steps)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return load_model(str(save_tiny_flux_pipeline(tmp_path_factory.mktemp("models") / "flux")))


@pytest.mark.parametrize("latent_dtype", ["fp32", "bf16"])
def test_a_data_set_tells_its_sigmas_and_leaves_the_last_step_out(
    flux: DiffusionModel, tmp_path: Path, latent_dtype: str
) -> None:
    spec = build_spec(
        flux, prompts=["a cat"], num_images_per_prompt=2, num_inference_steps=4, latent_dtype=latent_dtype
    )
    assert spec.ddim_eta == 0.7 and spec.guidance_scale == 3.5
    summary = generate(tmp_path, spec, flux, shards=[0])
    assert summary.deterministic_steps == (3,)
    dataset = Dataset.open(tmp_path)
    assert dataset.spec.scheduler == flow_chain(flux.scheduler_config, 4)
    row = dataset.samples(["timesteps", "stochastic", "log_probs"]).to_pylist()[0]
    assert row["timesteps"] == [round(1000 * sigma) for sigma in spec.scheduler["sigmas"][:-1]]
    assert row["stochastic"] == [True, True, True, False] and row["log_probs"][3] is None


def test_recorded_residuals_are_standard_normal(flux: DiffusionModel) -> None:
    """E[log-prob] of a Gaussian's own samples: −½ − log σ − ½ log 2π a dimension."""
    spec = build_spec(flux, prompts=["a cat"], num_images_per_prompt=16, num_inference_steps=4, batch_size=16)
    policy = build_policy(spec, flux)
    chain = sample_batch(spec, policy, range(16), record=True)
    std = policy.schedule.std.double()[:3]
    error = chain.log_probs.mean(dim=1)[:3] - (-0.5 - std.log() - 0.5 * np.log(2 * np.pi))
    assert float(error.abs().max()) < 5 * (0.5 / (16 * 256)) ** 0.5


def test_flux_obeys_its_guidance_in_one_call(flux: DiffusionModel) -> None:
    """The scale is a condition: another one gives other images, and there is no unconditional half."""
    chains = []
    for guidance_scale in (1.0, 3.5):
        spec = build_spec(flux, prompts=["a cat"], num_images_per_prompt=1, guidance_scale=guidance_scale)
        policy = build_policy(spec, flux)
        assert policy.prompts.negative is None
        assert policy.prompts.of([0])["guidance"].tolist() == [guidance_scale]
        chains.append(sample_batch(spec, policy, range(1), record=False).latents)
    assert not torch.equal(*chains)


def test_what_a_flux_does_not_read_is_refused(flux: DiffusionModel, tmp_path: Path) -> None:
    schnell = load_model(str(save_tiny_flux_pipeline(tmp_path / "schnell", guidance_embeds=False)))
    spec = build_spec(schnell, prompts=["a cat"], num_inference_steps=4)
    assert spec.guidance_scale == 1
    with pytest.raises(ConfigError, match="reads no guidance scale: give 1"):
        build_policy(replace(spec, guidance_scale=3.5), schnell)
    with pytest.raises(ConfigError, match="reads no negative prompt"):
        build_policy(build_spec(flux, prompts=["a cat"], negative_prompt="blurry"), flux)


def test_a_refused_option_leaves_no_data_set_that_keeps_it(flux: DiffusionModel, tmp_path: Path) -> None:
    refused = build_spec(flux, prompts=["a cat"], num_images_per_prompt=1, negative_prompt="blurry")
    for make_one in (partial(generate, shards=range(1)), make):
        with pytest.raises(ConfigError, match="reads no negative prompt"):
            make_one(tmp_path / "data", refused, flux)
        assert not (tmp_path / "data").exists()
    taken = build_spec(flux, prompts=["a cat"], num_images_per_prompt=1, num_inference_steps=2)
    assert make(tmp_path / "data", taken, flux).num_made == 1


def test_sd3_with_t5_reads_it(tmp_path: Path) -> None:
    """With T5 its tokens follow those of CLIP; without, zeros stand there."""
    folder = tmp_path / "without"
    without = load_model(str(save_tiny_sd3_pipeline(folder)))
    assert len(without.parts) == 4
    condition = without.family.embed(without.pipeline, "a cat")
    assert condition["prompt_embeds"].shape == (1, 16 + 256, 32)
    assert not condition["prompt_embeds"][:, 16:].any() and condition["pooled_embeds"].shape == (1, 24)
    with_t5 = load_model(str(save_tiny_sd3_pipeline(tmp_path / "with", t5=True)))
    assert len(with_t5.parts) == 5
    assert with_t5.family.embed(with_t5.pipeline, "a cat")["prompt_embeds"][:, 16:].any()


def test_a_replay_takes_the_stored_sigmas_and_asks_no_scheduler(
    flux: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever diffusers' scheduler gives by then: the same log-probabilities, to the last bit."""
    spec = build_spec(flux, prompts=["a cat"], num_images_per_prompt=2, num_inference_steps=3, batch_size=2)
    generate(tmp_path, spec, flux, shards=[0])

    def gone(*_: Any, **__: Any) -> None:
        raise AssertionError("the scheduler was asked")

    monkeypatch.setattr("diffusers.FlowMatchEulerDiscreteScheduler.set_timesteps", gone)
    with pytest.raises(AssertionError):
        build_spec(flux, prompts=["a cat"])
    assert compute_log_probs(Dataset.open(tmp_path), flux, name="again").max_difference == 0.0
