"""What is checked of one model in one compute dtype: replay, sampling and a training step."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device import measured, peak_gib, reset_peak
from models import PROMPT, Case, random_model
from PIL import Image

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.guidance import guided_prediction
from ppod_data.diffusion.models.model import DiffusionModel, decode_images
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.cost import plan_generation
from ppod_data.generation.generate import generate, sample_records
from ppod_data.generation.sampling import build_policy, sample_batch, sample_images
from ppod_data.pairs.rank import rank
from ppod_data.scoring.score import score
from ppod_train.data.batches import load_batch, timesteps_of_step, units_of_step
from ppod_train.data.training_data import DataSource
from ppod_train.distributed import SINGLE_PROCESS
from ppod_train.run.cost import plan_training
from ppod_train.run.model_defaults import resolve
from ppod_train.run.prepare import prepare
from ppod_train.settings import TrainSettings
from ppod_train.step.train_step import TrainState, train_step


class Brightness:
    """A reward that costs nothing."""

    name, revision = "brightness", "1"

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """Return the mean brightness of each image."""
        return [float(np.asarray(image).mean()) for image in images]


def check_case(
    case: Case, folder: Path, work: Path, *, dtype: str, device: str, timed: bool
) -> dict[str, Any]:
    """Check one model in one compute dtype; `timed` adds the speed of sampling and training."""
    started = time.perf_counter()
    model = random_model(folder, device=device, compute_dtype=dtype)
    images = 2 * case.batch if timed else 4
    spec = build_spec(
        model,
        prompts=[PROMPT],
        num_images_per_prompt=images,
        num_inference_steps=case.steps if timed else min(4, case.steps),
        batch_size=case.batch if timed else min(2, case.batch),
    )
    settings = TrainSettings(
        objective="ppod",
        pairs_per_step=2,
        timesteps_per_update=3,
        eval_every=0,
        log_ratio_clip=10.0,  # measure what a narrower clip would refuse
        gradient_checkpointing=case.checkpointing,
    )
    found: dict[str, Any] = {
        "compute_dtype": dtype,
        "steps": spec.num_inference_steps,
        "batch": spec.batch_size,
    }
    found["seconds_to_build"] = time.perf_counter() - started
    found |= _replay(model, spec)
    found |= _sampling(model, spec, folder, dtype, timed=timed)
    data = work / f"{folder.name}-{dtype}"
    generate(data, spec, model, shards=range(spec.num_shards))
    dataset = Dataset.open(data)
    found["finite"] = True  # generate refuses other latents
    score(dataset, Brightness(), name="brightness")
    rank(dataset, reward="brightness", name="brightness", strategy="all")
    found |= _training(model, data, settings, folder, dtype, timed=timed)
    found["seconds"] = time.perf_counter() - started
    return found


def _replay(model: DiffusionModel, spec: GenerationSpec) -> dict[str, Any]:
    """Sample a batch twice and replay it in its own shape: is a log-probability reproducible on this device?"""
    policy = build_policy(spec, model)
    batch = range(min(spec.batch_size, spec.num_samples))
    chain = sample_batch(spec, policy, batch, record=True)
    again = sample_batch(spec, policy, batch, record=True)

    def replayed(rows: torch.Tensor, i: int) -> torch.Tensor:
        with torch.no_grad():
            return policy.log_prob(
                chain.latents[i, rows].float(),
                chain.latents[i + 1, rows].float(),
                torch.full_like(rows, i),
                policy.prompts.of([0] * len(rows)),
            ).cpu()

    rows = torch.arange(len(batch), device=model.device)
    steps = [i for i, stochastic in enumerate(policy.schedule.stochastic) if stochastic][:3]
    orders = {"same_batch": rows, "rows_rolled": rows.roll(1), "half_batch": rows[: len(rows) // 2]}
    errors = dict.fromkeys(orders, 0.0)
    for i in steps:
        for name, order in (
            ("same_batch", rows),
            ("rows_rolled", rows.roll(1)),
            ("half_batch", rows[: len(rows) // 2]),
        ):
            difference = replayed(order, i) - chain.log_probs[i, order.cpu()]
            errors[name] = max(errors[name], float(difference.abs().max()))
    return {
        "sampled_twice_equal": bool(torch.equal(chain.latents, again.latents)),
        **{f"replay_error_{name}": value for name, value in errors.items()},
        "latent_rms": float(chain.latents[-1].float().square().mean().sqrt()),
    }


def _sampling(
    model: DiffusionModel, spec: GenerationSpec, folder: Path, dtype: str, *, timed: bool
) -> dict[str, Any]:
    """Speed against diffusers' call, and peak memory against the estimate."""
    policy = build_policy(spec, model)
    batch = range(min(spec.batch_size, spec.num_samples))
    ways: dict[str, Callable[[], object]] = {"recorded": lambda: sample_records(spec, model, policy, batch)}
    if timed:
        ways["images"] = lambda: next(iter(sample_images(spec, model, range(1))))
        ways["diffusers"] = _pipeline_call(model, spec)
    reset_peak(model.device)
    sample_records(spec, model, policy, batch)
    found: dict[str, Any] = {"sample_peak_gib": peak_gib(model.device)}
    skeleton = load_skeleton(str(folder), compute_dtype=dtype)
    found["sample_estimate_gib"] = plan_generation(skeleton, spec).peak_bytes / 2**30
    if timed:
        seconds = measured(ways, model.device, rounds=2)
        found["images_per_second"] = len(batch) / min(seconds["recorded"])
        found["recorded_over_diffusers"] = min(seconds["recorded"]) / min(seconds["diffusers"])
        found["images_over_diffusers"] = min(seconds["images"]) / min(seconds["diffusers"])
    return found


def _pipeline_call(model: DiffusionModel, spec: GenerationSpec) -> Callable[[], object]:
    """Return diffusers' own call for as many images and steps, with DDIM's noise if the chain is DDIM's.

    Both ways decode by the same function: the pipelines decode in the compute dtype, ppod in the VAE's own.
    """
    from diffusers import DDIMScheduler

    pipeline = model.pipeline
    options: dict[str, Any] = {
        "guidance_scale": spec.guidance_scale,
        "num_inference_steps": spec.num_inference_steps,
        "output_type": "latent",
        "height": spec.height,
        "width": spec.width,
    }
    if hasattr(pipeline, "unet"):
        pipeline.scheduler = DDIMScheduler.from_config(spec.scheduler)
        options["eta"] = 1.0
    count = min(spec.batch_size, spec.num_samples)
    generator = torch.Generator(device="cpu").manual_seed(0)

    def call() -> object:
        latents = pipeline([PROMPT] * count, generator=generator, **options).images
        if latents.ndim == 3:  # packed
            latents = pipeline._unpack_latents(latents, spec.height, spec.width, pipeline.vae_scale_factor)
        return decode_images(model, latents)

    return call


def _training(
    model: DiffusionModel, data: Path, settings: TrainSettings, folder: Path, dtype: str, *, timed: bool
) -> dict[str, Any]:
    """Drift of the untouched policy, the cost of a step against bare calls, peak memory against the estimate."""
    source = DataSource(roots=[data], pairs="brightness", scores="brightness")
    try:
        state, drift = prepare(source, model, settings, "", None, SINGLE_PROCESS)
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    found: dict[str, Any] = {
        "drift_p99": drift.overall_p99,
        "drift_worst_step_p99": max(drift.p99),
        "drift_exact": drift.share_exact,
        "rounding_largest": max(drift.rounding, default=None),
        "default_clip": resolve(TrainSettings(), state.data.spec).log_ratio_clip,
        "drift": asdict(drift),
    }
    reset_peak(model.device)
    metrics = train_step(state, step=0, gradient_share=1.0)
    found |= {
        "train_peak_gib": peak_gib(model.device),
        "train_estimate_gib": plan_training(
            load_skeleton(str(folder), compute_dtype=dtype), Dataset.open(data).spec, settings
        ).peak_bytes
        / 2**30,
        "one_pass": metrics.one_pass,
        "grad_norm": metrics.grad_norm,
        "loss": metrics.loss,
    }
    if timed:
        steps = iter(range(1, 1000))
        seconds = measured(
            {
                "f": _bare(state, backward=False),
                "f+b": _bare(state, backward=True),
                "step": lambda: train_step(state, step=next(steps), gradient_share=1.0),
            },
            model.device,
            rounds=2,
        )
        f, both, step = (min(seconds[name]) for name in ("f", "f+b", "step"))
        found |= {
            "step_seconds": step,
            "step_over_bare": step / (both if metrics.one_pass else f + both),
            "step_over_f_plus_b": step / both,
        }
        again = train_step(state, step=next(steps), gradient_share=1.0)
        found["log_ratio_after"] = float(again.log_ratio_mean)
    return found


def _bare(state: TrainState, *, backward: bool) -> Callable[[], None]:
    """Return calls of the guided network on the (trajectory, timestep) indices of a step, in the trainer's chunks."""
    data, policy, settings = state.data, state.policy, state.settings
    units = units_of_step(data, step=0, pairs_per_step=settings.pairs_per_step, seed=settings.seed)
    steps = timesteps_of_step(
        data, step=0, timesteps_per_update=settings.timesteps_per_update, seed=settings.seed
    )
    batch = load_batch(data, units, steps, policy.prompts)
    count = batch.latents.shape[1]
    rows = torch.arange(count, device=batch.latents.device).repeat(len(steps))
    columns = torch.arange(len(steps), device=batch.latents.device).repeat_interleave(count)

    def run() -> None:
        chunks = zip(rows.split(state.batch_size), columns.split(state.batch_size), strict=True)
        with torch.set_grad_enabled(backward):
            for row, column in chunks:
                x_t, _, step, prompt = batch.transition(row, column)
                prediction = guided_prediction(
                    policy.network,
                    x_t,
                    policy.schedule.timesteps[step],
                    prompt,
                    policy.prompts.negative,
                    policy.guidance,
                )
                if backward:
                    torch.autograd.backward(prediction, torch.ones_like(prediction))

    return run
