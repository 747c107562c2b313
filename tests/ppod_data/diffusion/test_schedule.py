"""The DDIM schedule: equal to diffusers', and what cannot be a recorded chain is refused by name."""

import pytest
import torch

from ppod_data.diffusion.ddim import build_ddim_schedule, ddim_config
from ppod_data.diffusion.gaussian import log_prob, sample_next
from ppod_data.errors import ConfigError

SD = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def config(**options: object) -> dict[str, object]:
    return ddim_config("DDIMScheduler", SD | options)


CHAINS = [
    pytest.param(config(), 20, id="stable-diffusion"),
    pytest.param(config(prediction_type="v_prediction"), 20, id="v"),
    pytest.param(config(prediction_type="sample"), 20, id="sample"),
    pytest.param(config(set_alpha_to_one=True), 20, id="alpha-to-one"),
    pytest.param(config(steps_offset=0), 20, id="offset-0"),
    pytest.param(config(clip_sample=True, clip_sample_range=0.7), 20, id="clip-sample"),
    pytest.param(config(timestep_spacing="trailing"), 20, id="trailing"),
    pytest.param(config(timestep_spacing="trailing", set_alpha_to_one=True), 50, id="trailing-to-one"),
    pytest.param(config(beta_schedule="squaredcos_cap_v2", set_alpha_to_one=True), 7, id="cosine-7-steps"),
    pytest.param(config(trained_betas=[0.001 + 0.00001 * i for i in range(1000)]), 30, id="trained-betas"),
    pytest.param(config(), 1, id="one-step"),
    pytest.param(config(steps_offset=0), 1000, id="all-steps"),
]


@pytest.mark.parametrize("eta", [1.0, 0.3])
@pytest.mark.parametrize(("scheduler_config", "num_steps"), CHAINS)
def test_every_step_equals_diffusers_bit_for_bit(
    scheduler_config: dict[str, object], num_steps: int, eta: float
) -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(**scheduler_config)
    theirs.set_timesteps(num_steps)
    ours = build_ddim_schedule(scheduler_config, num_steps, eta)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    generator = torch.Generator().manual_seed(0)
    checked = {0, 1, num_steps // 2, num_steps - 2, num_steps - 1}
    for step in sorted(i for i in checked if 0 <= i < num_steps):
        latents, output, noise = torch.randn(3, 2, 4, 8, 8, generator=generator).unbind()
        expected = theirs.step(output, int(theirs.timesteps[step]), latents, eta=eta, variance_noise=noise)
        index = torch.full((2,), step)
        mean = ours.mean(index, output, latents)
        assert torch.equal(sample_next(ours, index, mean, noise, torch.float32), expected.prev_sample)


@pytest.mark.parametrize("set_alpha_to_one", [False, True])
@pytest.mark.parametrize(
    ("spacing", "num_steps"), [("trailing", 6), ("trailing", 30), ("linspace", 20), ("linspace", 7)]
)
def test_a_step_of_uneven_spacing_ends_at_the_next_timestep_of_the_list(
    spacing: str, num_steps: int, set_alpha_to_one: bool
) -> None:
    """Where DDIMScheduler's t − stride is that timestep, the step is its own; the last ends the schedule."""
    from diffusers import DDIMScheduler

    scheduler_config = config(timestep_spacing=spacing, set_alpha_to_one=set_alpha_to_one)
    theirs = DDIMScheduler(**scheduler_config)
    theirs.set_timesteps(num_steps)
    ours = build_ddim_schedule(scheduler_config, num_steps, 1.0)
    timesteps = theirs.timesteps.tolist()
    assert ours.timesteps.tolist() == timesteps
    alphas = theirs.alphas_cumprod
    ends = torch.stack([*alphas[timesteps[1:]], theirs.final_alpha_cumprod])
    assert torch.equal(ours.sqrt_alpha_prev, ends**0.5)
    variance = (1 - ends) / (1 - alphas[timesteps]) * (1 - alphas[timesteps] / ends)
    torch.testing.assert_close(ours.std, variance.clamp(min=0).sqrt())
    agreeing = [i for i in range(num_steps - 1) if timesteps[i] - 1000 // num_steps == timesteps[i + 1]]
    assert len(agreeing) < num_steps - 1
    for step in agreeing:
        latents, output, noise = torch.randn(3, 2, 4, 8, 8).unbind()
        expected = theirs.step(output, timesteps[step], latents, eta=1.0, variance_noise=noise)
        index = torch.full((2,), step)
        mean = ours.mean(index, output, latents)
        assert torch.equal(sample_next(ours, index, mean, noise, torch.float32), expected.prev_sample)


def test_every_number_of_steps_has_a_chain() -> None:
    for spacing in ("leading", "trailing", "linspace"):
        for num_steps in (*range(1, 120), 250, 333, 500, 997):
            schedule = build_ddim_schedule(config(timestep_spacing=spacing, steps_offset=0), num_steps, 1.0)
            assert schedule.num_inference_steps == num_steps


def test_rows_at_different_steps_equal_each_step_alone() -> None:
    schedule = build_ddim_schedule(config(), 20, 1.0)
    latents, output = torch.randn(2, 20, 4, 8, 8, generator=torch.Generator().manual_seed(1)).unbind()
    together = schedule.mean(torch.arange(20), output, latents)
    alone = [schedule.mean(torch.tensor([i]), output[i : i + 1], latents[i : i + 1]) for i in range(20)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize(
    ("options", "deterministic"),
    [({}, []), ({"set_alpha_to_one": True}, [19]), ({"steps_offset": 0}, [19])],
)
def test_a_last_step_without_variance_is_marked(options: dict[str, object], deterministic: list[int]) -> None:
    schedule = build_ddim_schedule(config(**options), 20, 1.0)
    assert [i for i, stochastic in enumerate(schedule.stochastic) if not stochastic] == deterministic


def test_stable_diffusions_last_step_has_its_variance() -> None:
    """The previous timestep is below 0 there: final_alpha_cumprod, not a clamped timestep, gives 4.3e-4."""
    schedule = build_ddim_schedule(config(), 50, 1.0)
    assert float(schedule.std[-1] ** 2) == pytest.approx(4.3e-4, rel=0.02)


def test_zero_terminal_snr_is_finite_with_v_prediction() -> None:
    options = {
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "prediction_type": "v_prediction",
    }
    schedule = build_ddim_schedule(config(**options), 20, 1.0)
    assert float(schedule.sqrt_alpha[0]) == 0.0
    assert bool(torch.isfinite(schedule.direction).all())
    assert bool(torch.isfinite(schedule.std).all())


@pytest.mark.parametrize(
    ("options", "num_steps", "eta", "named"),
    [
        ({"thresholding": True}, 20, 1.0, "thresholding"),
        ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 20, 1.0, "zero terminal SNR"),
        ({}, 1000, 1.0, "steps_offset"),
        ({}, 0, 1.0, "num_inference_steps"),
        ({}, 1001, 1.0, "num_inference_steps"),
        ({}, 20, 0.0, "ddim_eta"),
        ({}, 20, 1.1, "ddim_eta"),
    ],
)
def test_what_has_no_chain_is_refused_by_name(
    options: dict[str, object], num_steps: int, eta: float, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        build_ddim_schedule(config(**options), num_steps, eta)


def test_another_scheduler_is_converted_with_every_key() -> None:
    """Stable Diffusion 1.5 ships PNDM: DDIMScheduler's default clip_sample=True would be wrong for it."""
    pndm = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    converted = ddim_config("PNDMScheduler", pndm)
    assert converted["clip_sample"] is False
    assert converted["set_alpha_to_one"] is False
    assert converted["timestep_spacing"] == "leading"
    assert (
        ddim_config("EulerDiscreteScheduler", pndm | {"timestep_spacing": "linspace"})["timestep_spacing"]
        == "leading"
    )


def test_flow_matching_is_refused() -> None:
    with pytest.raises(ConfigError, match="FlowMatchEulerDiscreteScheduler"):
        ddim_config("FlowMatchEulerDiscreteScheduler", {"shift": 3.0})


def test_log_prob_is_torch_distributions_mean_in_float64() -> None:
    schedule = build_ddim_schedule(config(), 20, 1.0)
    mean, next_latents = torch.randn(
        2, 20, 4, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    steps = torch.arange(20)
    std = schedule.std.double().view(-1, 1, 1, 1)
    expected = torch.distributions.Normal(mean, std).log_prob(next_latents).mean(dim=(1, 2, 3))
    double = type(schedule)(**{**vars(schedule), "std": schedule.std.double()})
    torch.testing.assert_close(log_prob(double, steps, mean, next_latents), expected, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_log_prob_is_of_the_rounded_latent(dtype: torch.dtype) -> None:
    schedule = build_ddim_schedule(config(), 20, 1.0)
    step = torch.full((4,), 19)
    mean, noise = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(3)).unbind()
    rounded = sample_next(schedule, step, mean, noise, dtype)
    assert rounded.dtype == dtype
    std = float(schedule.std[19])
    expected = torch.distributions.Normal(mean.double(), std).log_prob(rounded.double()).mean(dim=(1, 2, 3))
    torch.testing.assert_close(log_prob(schedule, step, mean, rounded), expected, rtol=1e-6, atol=1e-6)


def test_v_prediction_and_epsilon_agree() -> None:
    """The same network, said in either way, gives the same mean."""
    epsilon, v = (
        build_ddim_schedule(config(), 20, 1.0),
        build_ddim_schedule(config(prediction_type="v_prediction"), 20, 1.0),
    )
    steps = torch.arange(20)
    latents, noise = torch.randn(
        2, 20, 4, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )
    sqrt_alpha = epsilon.sqrt_alpha.double().view(-1, 1, 1, 1)
    sqrt_beta = epsilon.sqrt_beta.double().view(-1, 1, 1, 1)
    denoised = (latents - sqrt_beta * noise) / sqrt_alpha
    velocity = sqrt_alpha * noise - sqrt_beta * denoised
    torch.testing.assert_close(
        epsilon.mean(steps, noise, latents),
        v.mean(steps, velocity, latents),
        rtol=1e-4,
        atol=1e-4,
    )
