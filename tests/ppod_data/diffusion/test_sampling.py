"""A recorded chain is what diffusers would have sampled, and replaying it gives the recorded log-probs exactly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel, decode_images
from ppod_data.errors import ConfigError, NonFiniteError, SpecMismatchError
from ppod_data.format.images import decode_image, pixels_sha256
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate, select_shards
from ppod_data.generation.sampling import build_policy, sample_batch, sample_images
from ppod_data.support.noise import standard_normal

PROMPTS = ("a cat", "two dogs")


def make_spec(model: DiffusionModel, **options: Any) -> GenerationSpec:
    defaults = {"prompts": PROMPTS, "num_images_per_prompt": 6, "num_inference_steps": 5, "batch_size": 4}
    return build_spec(model, **(defaults | {"images_per_shard": 8, "guidance_scale": 3.0} | options))


def make_dataset(root: Path, model: DiffusionModel, **options: Any) -> Dataset:
    spec = make_spec(model, **options)
    generate(root, spec, model, shards=range(spec.num_shards))
    return Dataset.open(root)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
def test_a_chain_is_diffusers_own(tiny_model: DiffusionModel, guidance_scale: float) -> None:
    """The loop of StableDiffusionPipeline with the same noise, from embeddings to latents, bit for bit."""
    from diffusers import DDIMScheduler

    spec = make_spec(tiny_model, guidance_scale=guidance_scale)
    chain = sample_batch(spec, build_policy(spec, tiny_model), range(4), record=True)
    pipeline = tiny_model.pipeline
    scheduler = DDIMScheduler(**spec.scheduler)
    scheduler.set_timesteps(5)
    guided = guidance_scale > 1
    with torch.no_grad():
        cond, uncond = pipeline.encode_prompt(PROMPTS[0], "cpu", 4, guided, "")
        embeds = torch.cat([uncond, cond]) if guided else cond
        latents = chain.latents[0]
        for i, timestep in enumerate(scheduler.timesteps):
            inputs = torch.cat([latents] * 2) if guided else latents
            output = pipeline.unet(inputs, timestep, encoder_hidden_states=embeds).sample
            if guided:
                first, second = output.chunk(2)
                output = first + guidance_scale * (second - first)
            noise = np.stack(
                [
                    standard_normal(
                        purpose="train",
                        stage=0,
                        seed=0,
                        prompt_id=spec.prompt_ids[0],
                        image_index=k,
                        stream="steps",
                        shape=(5, 4, 8, 8),
                    )[i]
                    for k in range(4)
                ]
            )
            variance_noise = torch.from_numpy(noise)
            latents = scheduler.step(
                output, timestep, latents, eta=1.0, variance_noise=variance_noise
            ).prev_sample
            assert torch.equal(latents, chain.latents[i + 1])


@pytest.mark.parametrize("latent_dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("guidance_mode", ["batched", "sequential"])
def test_replay_after_a_shard_is_exact(
    tiny_model: DiffusionModel, tmp_path: Path, latent_dtype: str, guidance_mode: str
) -> None:
    dataset = make_dataset(tmp_path, tiny_model, latent_dtype=latent_dtype, guidance_mode=guidance_mode)
    spec = dataset.spec
    policy = build_policy(spec, tiny_model)
    ids = dataset.samples(["sample_id"])["sample_id"].to_pylist()[:4]
    batch = [dataset.trajectory(sample_id) for sample_id in ids]
    for step in range(5):
        before, after = zip(*(trajectory.step(step) for trajectory in batch), strict=True)
        assert (
            before[0].dtype
            == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[latent_dtype]
        )
        with torch.no_grad():
            replayed = policy.log_prob(
                torch.stack(before).float(),
                torch.stack(after).float(),
                torch.full((4,), step),
                policy.prompts.of([0] * 4),
            )
        assert replayed.tolist() == [trajectory.log_probs[step] for trajectory in batch]


def test_recorded_residuals_are_standard_normal(tiny_model: DiffusionModel) -> None:
    """E[log-prob] of a Gaussian's own samples: −½ − log σ − ½ log 2π a dimension."""
    spec = make_spec(tiny_model, num_images_per_prompt=64, batch_size=64, images_per_shard=64)
    policy = build_policy(spec, tiny_model)
    chain = sample_batch(spec, policy, range(64), record=True)
    expected = -0.5 - policy.schedule.std.double().log() - 0.5 * np.log(2 * np.pi)
    error = chain.log_probs.mean(dim=1) - expected
    assert float(error.abs().max()) < 5 * (0.5 / (64 * 256)) ** 0.5


def test_a_step_without_variance_has_no_log_prob(tiny_model: DiffusionModel, tmp_path: Path) -> None:
    to_one = replace(tiny_model, scheduler_config=tiny_model.scheduler_config | {"set_alpha_to_one": True})
    spec = make_spec(to_one)
    summary = generate(tmp_path, spec, to_one, shards=range(spec.num_shards))
    assert summary.deterministic_steps == (4,)
    rows = Dataset.open(tmp_path).samples(["stochastic", "log_probs"]).to_pylist()
    assert all(row["stochastic"] == [True] * 4 + [False] for row in rows)
    assert all(row["log_probs"][4] is None and None not in row["log_probs"][:4] for row in rows)


def test_images_are_the_decoded_last_latents(tiny_model: DiffusionModel, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, tiny_model)
    rows = dataset.samples(["sample_id", "image", "image_pixels_sha256"]).to_pylist()[:4]
    latents = torch.stack([dataset.trajectory(row["sample_id"]).latents[-1] for row in rows])
    for row, image in zip(rows, decode_images(tiny_model, latents), strict=True):
        stored = decode_image(row["image"]["bytes"])
        assert stored.tobytes() == image.tobytes()
        assert pixels_sha256(stored) == row["image_pixels_sha256"]


def test_siblings_share_their_start_per_prompt_only(tiny_model: DiffusionModel) -> None:
    for initial_noise, equal in [("per-prompt", True), ("per-image", False)]:
        spec = make_spec(tiny_model, initial_noise=initial_noise)
        chain = sample_batch(spec, build_policy(spec, tiny_model), range(2), record=True)
        assert torch.equal(chain.latents[0, 0], chain.latents[0, 1]) == equal
        assert not torch.equal(chain.latents[-1, 0], chain.latents[-1, 1])


@pytest.mark.parametrize(("store_steps", "indices"), [("last:2", [3, 4, 5]), ("every:2", [0, 1, 2, 3, 4, 5])])
def test_only_the_stored_steps_take_space(
    tiny_model: DiffusionModel, tmp_path: Path, store_steps: str, indices: list[int]
) -> None:
    whole = make_dataset(tmp_path / "whole", tiny_model)
    part = make_dataset(tmp_path / "part", tiny_model, store_steps=store_steps)
    ids = [data.samples(["sample_id"])["sample_id"][0].as_py() for data in (whole, part)]
    all_latents, some = whole.trajectory(ids[0]).latents, part.trajectory(ids[1])
    assert some.latent_index == indices
    assert torch.equal(some.latents, all_latents[indices])


def test_evaluation_noise_is_not_training_noise(tiny_model: DiffusionModel) -> None:
    images = {
        purpose: [
            pixels_sha256(image)
            for batch in sample_images(make_spec(tiny_model, purpose=purpose), tiny_model)
            for _, _, image in batch
        ]
        for purpose in ("train", "validation", "eval")
    }
    assert len(images["train"]) == 12
    assert not set(images["train"]) & set(images["eval"])
    assert not set(images["validation"]) & set(images["eval"])


def test_running_again_makes_nothing_and_another_spec_is_refused(
    tiny_model: DiffusionModel, tmp_path: Path
) -> None:
    spec = make_spec(tiny_model)
    assert generate(tmp_path, spec, tiny_model, shards=[1]).num_made == 4
    assert generate(tmp_path, spec, tiny_model, shards=[0, 1]).num_made == 8
    assert generate(tmp_path, spec, tiny_model, shards=[0, 1]).num_made == 0
    with pytest.raises(SpecMismatchError, match=r"ddim_eta.*1\.0.*0\.5"):
        generate(tmp_path, make_spec(tiny_model, ddim_eta=0.5), tiny_model, shards=[0])


def test_workers_take_every_shard_once(tiny_model: DiffusionModel) -> None:
    spec = make_spec(tiny_model, num_images_per_prompt=20)
    assert sorted(select_shards(spec, None, 0, 2) + select_shards(spec, None, 1, 2)) == list(range(5))
    assert select_shards(spec, (1, 4), 1, 2) == [1, 3]
    with pytest.raises(ConfigError, match="0:5"):
        select_shards(spec, (3, 6), 0, 1)


def test_nan_latents_are_never_written(tiny_model: DiffusionModel, tmp_path: Path) -> None:
    weight = next(iter(tiny_model.pipeline.unet.parameters()))
    saved = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        with pytest.raises(NonFiniteError, match="fp32"):
            make_dataset(tmp_path, tiny_model)
    finally:
        with torch.no_grad():
            weight.copy_(saved)
    assert not list(tmp_path.rglob("*.tar")) and not list(tmp_path.rglob("*.parquet"))
