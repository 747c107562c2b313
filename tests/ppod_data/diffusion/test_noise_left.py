"""Noise in a window of steps: what stays in x_0, the default window, and steps outside a window."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.ddim import build_ddim_schedule, ddim_config
from ppod_data.diffusion.families.by_name import FAMILIES
from ppod_data.diffusion.flow import build_flow_schedule, flow_chain, flow_config
from ppod_data.diffusion.gaussian import sample_next
from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.diffusion.noise_left import MOST_NOISE, final_std, noise_left, quiet_steps
from ppod_data.diffusion.schedule import build_schedule, chain_config, sensitivity, spec_schedule
from ppod_data.errors import ConfigError, SpecMismatchError
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.generation.sampling import build_policy, sample_batch
from ppod_data.integrity.replay import replay
from ppod_data.library.plans import notes_on
from tests.support import full_size
from tests.support.pipelines import save_tiny_pipeline, save_tiny_sd3_pipeline

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


def ddim(**options: object) -> dict[str, object]:
    return ddim_config("DDIMScheduler", SD | {"set_alpha_to_one": False, "steps_offset": 1} | options)


def flow(*, tokens: int = 4096, sigmas_from_one: bool, **options: object) -> dict[str, object]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    return flow_config(scheduler, image_seq_len=tokens, sigmas_from_one=sigmas_from_one)


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
CONFIGS = {
    "sd-1": ddim(),
    "sd-2": ddim(prediction_type="v_prediction"),
    "sd-xl": ddim(set_alpha_to_one=True),
    "trailing": ddim(timestep_spacing="trailing"),
    "zero-snr": ddim(**ZERO_SNR),
    "pixart-sigma": ddim(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, set_alpha_to_one=True, steps_offset=0
    ),
    "sd-3": flow(shift=3.0, sigmas_from_one=False),
    "flux-dev": flow(shift=3.0, use_dynamic_shifting=True, sigmas_from_one=True),
    "flux-dev-256": flow(tokens=256, shift=3.0, use_dynamic_shifting=True, sigmas_from_one=True),
    "flux-schnell": flow(shift=1.0, sigmas_from_one=True),
    "terminal": flow(shift=3.0, use_dynamic_shifting=True, shift_terminal=0.02, sigmas_from_one=True),
    "flux-2": flow(use_dynamic_shifting=True, sigmas_from_one=True) | {"mu": 2.015, "mu_per_step": -0.0068},
    "z-image": flow(shift=6.0, sigmas_from_one=True),
    "z-image-turbo": flow(shift=3.0, sigmas_from_one=True),
    "qwen-image": flow(
        use_dynamic_shifting=True,
        max_shift=0.9,
        max_image_seq_len=8192,
        shift_terminal=0.02,
        sigmas_from_one=True,
    ),
}
DATA_STDS = (0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)


@pytest.mark.parametrize("noise_level", [0.1, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("name", CONFIGS)
def test_no_familys_chain_leaves_more_noise_than_its_sampler_by_half(name: str, noise_level: float) -> None:
    for num_steps in (4, 5, 6, 8, 10, 20, 25, 28, 50, 100):
        chain = chain_config(CONFIGS[name], num_steps)
        noisy = quiet_steps(chain, num_steps, noise_level)
        chosen = build_schedule(chain, num_steps, noise_level, noisy)
        without = build_schedule(chain, num_steps, noise_level, range(0))
        assert any(chosen.stochastic) and not any(without.stochastic)
        for data_std in DATA_STDS:
            left = final_std(chosen, data_std) / final_std(without, data_std)
            assert left <= MOST_NOISE * 1.001, (num_steps, data_std, left)


def test_the_real_model_of_every_family_ends_without_noise(tmp_path: Path) -> None:
    savers = [save for name, save in vars(full_size).items() if name.startswith("save_")]
    checked = set()
    for number, save in enumerate(savers):
        model = load_skeleton(str(save(tmp_path / str(number))))
        checked.add(type(model.pipeline).__name__)
        for num_steps in (4, 10, 28):
            chain = chain_config(model.scheduler_config, num_steps)
            noise_level = model.family.noise_level
            noisy = quiet_steps(chain, num_steps, noise_level)
            chosen, without = (build_schedule(chain, num_steps, noise_level, of) for of in (noisy, range(0)))
            assert all(final_std(chosen, std) <= 1.51 * final_std(without, std) for std in DATA_STDS)
    assert checked == set(FAMILIES)


def test_chromas_sigmas_are_those_of_its_pipelines_own_call(tmp_path: Path) -> None:
    """At 1024 pixels, with the pipeline's default of 35 steps and its own shift for 4,096 tokens."""
    from diffusers.pipelines.chroma.pipeline_chroma import calculate_shift

    model = load_skeleton(str(full_size.save_chroma(tmp_path / "chroma")))
    scheduler = type(model.pipeline.scheduler).from_config(model.pipeline.scheduler.config)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 35, 35), mu=calculate_shift(4096))
    assert chain_config(model.scheduler_config, 35)["sigmas"] == scheduler.sigmas.tolist()


def test_the_default_is_every_step_of_ddim_and_ends_two_steps_early_for_sd3() -> None:
    for num_steps in (1, 4, 20, 50):
        assert quiet_steps(ddim(), num_steps, 1.0) == range(num_steps)
    for num_steps in (3, 10, 20, 28, 50):
        chain = flow_chain(CONFIGS["sd-3"], num_steps)
        assert quiet_steps(chain, num_steps, 0.7) == range(num_steps - 2)
    for num_steps, noise_level in ((6, 0.9), (20, 0.7), (28, 0.7)):
        chain = flow_chain(CONFIGS["flux-dev"], num_steps)
        assert quiet_steps(chain, num_steps, noise_level) == range(num_steps)


@pytest.mark.parametrize(
    ("num_steps", "whole", "windowed"), [(10, 0.239, 0.019), (20, 0.110, 0.027), (28, 0.077, 0.032)]
)
def test_the_noise_that_stayed_in_sd3s_images_is_gone(num_steps: int, whole: float, windowed: float) -> None:
    """Data of standard deviation 0.05: an independent propagation gave these numbers."""
    chain = flow_chain(CONFIGS["sd-3"], num_steps)
    assert final_std(build_schedule(chain, num_steps, 0.7), 0.05) == pytest.approx(whole, abs=6e-4)
    quiet = build_schedule(chain, num_steps, 0.7, quiet_steps(chain, num_steps, 0.7))
    assert final_std(quiet, 0.05) == pytest.approx(windowed, abs=6e-4)


def test_a_chain_that_cannot_be_quiet_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 steps at noise level 0\.7 leaves noise"):
        quiet_steps(flow_chain(CONFIGS["sd-3"], 2), 2, 0.7)


@pytest.mark.parametrize("name", ["sd-1", "zero-snr"])
def test_outside_the_window_a_ddim_step_is_diffusers_without_eta(name: str) -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(**CONFIGS[name])
    theirs.set_timesteps(10)
    ours = build_ddim_schedule(CONFIGS[name], 10, 1.0, range(3, 6))
    assert ours.stochastic == (*[False] * 3, *[True] * 3, *[False] * 4)
    for step in range(10):
        latents, output, noise = torch.randn(3, 2, 4, 8, 8).unbind()
        eta = 1.0 if step in range(3, 6) else 0.0
        timestep = int(theirs.timesteps[step])
        expected = theirs.step(output, timestep, latents, eta=eta, variance_noise=noise if eta else None)
        index = torch.full((2,), step)
        mean = ours.mean(index, output, latents)
        assert torch.equal(sample_next(ours, index, mean, noise, torch.float32), expected.prev_sample)


def test_outside_the_window_a_flow_step_is_diffusers_own() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    chain = flow_chain(CONFIGS["sd-3"], 10)
    theirs = FlowMatchEulerDiscreteScheduler()
    theirs.sigmas = torch.tensor(chain["sigmas"])
    ours, whole = build_flow_schedule(chain, 10, 0.7, range(2, 5)), build_flow_schedule(chain, 10, 0.7)
    assert [i for i, stochastic in enumerate(ours.stochastic) if stochastic] == [2, 3, 4]
    assert [k > 0 for k in sensitivity(ours)] == list(ours.stochastic)
    for step in range(10):
        latents, velocity, noise = torch.randn(3, 2, 4, 8, 8).unbind()
        index = torch.full((2,), step)
        taken = sample_next(ours, index, ours.mean(index, velocity, latents), noise, torch.float32)
        if step in (2, 3, 4):
            mean = whole.mean(index, velocity, latents)
            assert torch.equal(taken, sample_next(whole, index, mean, noise, torch.float32))
            continue
        theirs._step_index = step
        assert torch.equal(taken, theirs.step(velocity, ours.timesteps[step], latents, return_dict=False)[0])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DiffusionModel]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "sd": load_model(str(save_tiny_pipeline(folder / "sd"))),
        "sd-3": load_model(str(save_tiny_sd3_pipeline(folder / "sd-3"))),
    }


def a_spec(model: DiffusionModel, **options: object) -> GenerationSpec:
    chosen = {"num_images_per_prompt": 3, "num_inference_steps": 6, "batch_size": 2, "guidance_scale": 3.0}
    return build_spec(model, ["a cat"], **chosen | options)


@pytest.mark.parametrize("name", ["sd", "sd-3"])
def test_a_windowed_data_set_is_recorded_whole_and_replays_exactly(
    name: str, models: dict[str, DiffusionModel], tmp_path: Path
) -> None:
    model = models[name]
    spec = a_spec(model, noisy_steps="1:3", latent_dtype="fp16")
    summary = generate(tmp_path, spec, model, shards=range(spec.num_shards))
    assert summary.deterministic_steps == (0, 3, 4, 5)
    dataset = Dataset.open(tmp_path)
    assert (dataset.spec.noisy_steps, dataset.spec.version) == ("1:3", 4)
    row = dataset.samples(["stochastic", "log_probs"]).to_pylist()[0]
    assert row["stochastic"] == [False, True, True, False, False, False]
    assert [value is not None for value in row["log_probs"]] == row["stochastic"]
    replayed = replay(dataset, model, num_trajectories=3)
    assert (replayed.steps, replayed.share_exact) == ((1, 2), 1.0)
    (trajectory,) = [dataset.trajectory(spec.shard_sample_ids(0)[0])]
    assert len(trajectory.latents) == 7


def test_a_window_keeps_the_noise_of_its_steps(models: dict[str, DiffusionModel]) -> None:
    """A chain whose window starts at step 0 is the whole chain until the window ends."""
    model = models["sd"]
    whole, windowed = (
        sample_batch(spec, build_policy(spec, model), range(2), record=True)
        for spec in (a_spec(model), a_spec(model, noisy_steps="0:3"))
    )
    assert torch.equal(whole.latents[:4], windowed.latents[:4])
    assert not torch.equal(whole.latents[4], windowed.latents[4])


def test_sd3s_default_window_is_in_the_spec_and_the_whole_chain_is_the_spec_of_old_data_sets(
    models: dict[str, DiffusionModel], tmp_path: Path
) -> None:
    spec, old = a_spec(models["sd-3"]), a_spec(models["sd-3"], noisy_steps="0:6")
    assert spec.noisy_steps == "0:4" and spec_schedule(spec).stochastic == (True,) * 4 + (False,) * 2
    assert (old.noisy_steps, old.version) == (None, 1)
    assert spec_schedule(old).stochastic == (True,) * 5 + (False,)
    assert a_spec(models["sd"]).noisy_steps is None
    left, least = noise_left(old) or (0.0, 1.0)
    assert left > 10 * least and noise_left(spec) is None and noise_left(a_spec(models["sd"])) is None
    assert "noise of the steps 0:6 stays in the images" in notes_on(old, None)[0]
    assert notes_on(spec, None) == []
    generate(tmp_path, old, models["sd-3"], shards=[0])
    with pytest.raises(SpecMismatchError, match=r"noisy_steps differs.*give --noisy-steps 0:6"):
        generate(tmp_path, spec, models["sd-3"], shards=[0])


@pytest.mark.parametrize(
    ("window", "named"),
    [
        ("3", "write A:B"),
        ("3:3", "within 0:6"),
        ("4:2", "within 0:6"),
        ("0:7", "within 0:6"),
        ("5:6", "no step"),
    ],
)
def test_a_window_that_is_none_is_refused(window: str, named: str, models: dict[str, DiffusionModel]) -> None:
    with pytest.raises(ConfigError, match=f"noisy_steps is .*{named}"):
        a_spec(models["sd-3"], noisy_steps=window)
