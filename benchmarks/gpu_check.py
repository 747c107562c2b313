"""Check ppod on a GPU with full-size models of random weights: numbers, speed, memory, and resuming after a kill.

For each model and compute dtype it generates a few samples, scores and pairs them, and trains a LoRA on them, by the
functions that the commands call. It prints:

- replay drift: |replayed − recorded| log-probability of the untouched policy in the trainer's batch shape;
- images a second of sampling, decoding and recording, as a ratio to diffusers' own pipeline call;
- a training step as a ratio to the bare forward and backward calls of the network;
- peak memory of sampling and of a training step against the estimates of `--dry-run`;
- whether a training run that is killed and started again ends in the policy of an undisturbed run.

Needs no network. On a machine without the packages: `make gpu-bundle` on one that has them, then `make gpu-check`.
`--device cpu --tiny` runs the same code on tiny pipelines.
"""

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_models import CASES, Case, random_model
from PIL import Image

from ppod_data.dataset import Dataset
from ppod_data.diffusion.guidance import guided_prediction
from ppod_data.diffusion.model import DiffusionModel, decode_images
from ppod_data.diffusion.replay import replay_log_prob
from ppod_data.diffusion.skeleton import load_skeleton
from ppod_data.environment import environment
from ppod_data.generate import (
    build_spec,
    generate,
    prepare_sampler,
    sample_batch,
    sample_images,
    sample_records,
)
from ppod_data.pairs import rank
from ppod_data.plan import plan_generation
from ppod_data.score import score
from ppod_data.spec import GenerationSpec
from ppod_train.batches import load_batch, timesteps_of_step, units_of_step
from ppod_train.data import DataSource
from ppod_train.optimize import Trainee, train_step
from ppod_train.plan import plan_training
from ppod_train.prepare import prepare
from ppod_train.settings import TrainSettings
from ppod_train.workers import ALONE

PROMPT = "a cat and a dog"
ROOT = Path(__file__).resolve().parents[1]
_ALL = ["attention", *CASES, "resume"]


class Brightness:
    """A reward that costs nothing."""

    name, revision = "brightness", "1"

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        return [float(np.asarray(image).mean()) for image in images]


def check_case(
    case: Case, folder: Path, work: Path, *, dtype: str, device: str, timed: bool
) -> dict[str, Any]:
    """Everything about one model in one compute dtype; `timed` adds the speed of sampling and training."""
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
    settings = TrainSettings.of(
        "ppod",
        pairs_per_step=2,
        timesteps_per_update=3,
        learning_rate=1e-4,
        eval_every=0,
        log_ratio_clip=0.01,
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
    sampler = prepare_sampler(spec, model)
    batch = range(min(spec.batch_size, spec.num_samples))
    chain = sample_batch(spec, sampler, batch, record=True)
    again = sample_batch(spec, sampler, batch, record=True)

    def replayed(rows: torch.Tensor, i: int) -> torch.Tensor:
        with torch.no_grad():
            return replay_log_prob(
                sampler.network,
                sampler.schedule,
                latents=chain.latents[i, rows].float(),
                next_latents=chain.latents[i + 1, rows].float(),
                step_index=torch.full_like(rows, i),
                condition=sampler.conditioning.of([0] * len(rows)),
                negative=sampler.conditioning.negative,
                guidance_scale=spec.guidance_scale,
                guidance_mode=spec.guidance_mode,
            ).cpu()

    rows = torch.arange(len(batch), device=model.device)
    steps = [i for i, stochastic in enumerate(sampler.schedule.stochastic) if stochastic][:3]
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
    sampler = prepare_sampler(spec, model)
    batch = range(min(spec.batch_size, spec.num_samples))
    ways: dict[str, Callable[[], object]] = {"recorded": lambda: sample_records(spec, sampler, batch)}
    if timed:
        ways["images"] = lambda: next(iter(sample_images(spec, model, range(1))))
        ways["diffusers"] = _pipeline_call(model, spec)
    _reset_peak(model.device)
    sample_records(spec, sampler, batch)
    found: dict[str, Any] = {"sample_peak_gib": _peak_gib(model.device)}
    skeleton = load_skeleton(str(folder), compute_dtype=dtype)
    found["sample_estimate_gib"] = plan_generation(skeleton, spec).peak_bytes / 2**30
    if timed:
        seconds = _measured(ways, model.device, rounds=2)
        found["images_per_second"] = len(batch) / min(seconds["recorded"])
        found["recorded_over_diffusers"] = min(seconds["recorded"]) / min(seconds["diffusers"])
        found["images_over_diffusers"] = min(seconds["images"]) / min(seconds["diffusers"])
    return found


def _pipeline_call(model: DiffusionModel, spec: GenerationSpec) -> Callable[[], object]:
    """diffusers' own call for a batch of as many images and steps, with DDIM's noise where the chain is DDIM's.

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
        trainee, drift = prepare(source, model, settings, "", None, ALONE)
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    found: dict[str, Any] = {
        "drift_p99": drift.overall_p99,
        "drift_worst_step_p99": max(drift.p99),
        "drift_exact": drift.share_exact,
        "drift": asdict(drift),
    }
    _reset_peak(model.device)
    metrics = train_step(trainee, step=0, gradient_share=1.0)
    found |= {
        "train_peak_gib": _peak_gib(model.device),
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
        seconds = _measured(
            {
                "f": _bare(trainee, backward=False),
                "f+b": _bare(trainee, backward=True),
                "step": lambda: train_step(trainee, step=next(steps), gradient_share=1.0),
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
        again = train_step(trainee, step=next(steps), gradient_share=1.0)
        found["log_ratio_after"] = float(again.log_ratio_mean)
    return found


def _bare(trainee: Trainee, *, backward: bool) -> Callable[[], None]:
    """The guided network on the (trajectory, timestep) places of a step, in the trainer's chunks."""
    data, sampler, settings = trainee.data, trainee.sampler, trainee.settings
    units = units_of_step(data, step=0, pairs_per_step=settings.pairs_per_step, seed=settings.seed)
    steps = timesteps_of_step(
        data, step=0, timesteps_per_update=settings.timesteps_per_update, seed=settings.seed
    )
    batch = load_batch(data, units, steps, sampler.model.device)
    count = batch.latents.shape[1]
    rows = torch.arange(count, device=batch.latents.device).repeat(len(steps))
    columns = torch.arange(len(steps), device=batch.latents.device).repeat_interleave(count)

    def run() -> None:
        chunks = zip(rows.split(trainee.batch_size), columns.split(trainee.batch_size), strict=True)
        with torch.set_grad_enabled(backward):
            for row, column in chunks:
                prediction = guided_prediction(
                    sampler.network,
                    batch.latents[batch.current[column], row],
                    sampler.schedule.timesteps[batch.step_index[column]],
                    sampler.conditioning.of(batch.prompt_index[row]),
                    sampler.conditioning.negative,
                    guidance_scale=data.spec.guidance_scale,
                    guidance_mode=data.spec.guidance_mode,
                )
                if backward:
                    torch.autograd.backward(prediction, torch.ones_like(prediction))

    return run


def check_attention(device: str) -> dict[str, Any]:
    """Compare the gradient of every attention kernel with fp32's, at the models' shapes and memory layout.

    cuDNN's backward kernels gave NaN on H100 and H200 (pytorch/pytorch#196678, huggingface/diffusers#9768).
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    shapes = {"sd15": (4096, 8, 40), "sdxl": (4096, 10, 64), "sd35": (4429, 24, 64), "flux": (4608, 24, 128)}
    found: dict[str, Any] = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    for title, (tokens, heads, width) in shapes.items():
        torch.manual_seed(0)
        exact = [torch.randn(2, tokens, heads, width, device=device) for _ in range(4)]
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            wanted = _attention_gradient(exact)
        for dtype in (torch.bfloat16, torch.float16):
            for backend in (
                SDPBackend.FLASH_ATTENTION,
                SDPBackend.EFFICIENT_ATTENTION,
                SDPBackend.CUDNN_ATTENTION,
            ):
                kernel = backend.name.removesuffix("_ATTENTION").lower()
                name = f"{title}, {str(dtype).removeprefix('torch.')}, {kernel}"
                try:
                    with sdpa_kernel(backend):
                        given = _attention_gradient([tensor.to(dtype) for tensor in exact])
                    found[name] = float((given - wanted).norm() / wanted.norm())
                except RuntimeError as error:
                    found[name] = str(error).splitlines()[0][:80]
    return found


def _attention_gradient(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """d(attention · w)/d(query, key, value) of query, key, value, w [B, L, heads, width], laid out as in diffusers."""
    *inputs, weight = tensors
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    query, key, value = (leaf.permute(0, 2, 1, 3) for leaf in leaves)
    out = (
        torch.nn.functional.scaled_dot_product_attention(query, key, value).permute(0, 2, 1, 3).flatten(2, 3)
    )
    out.backward(weight.flatten(2, 3))
    return torch.cat([leaf.grad.float().flatten() for leaf in leaves if leaf.grad is not None])


def check_resume(folder: Path, work: Path, *, device: str, dtype: str) -> dict[str, Any]:
    """Kill a real `ppod-gen` and a real `ppod-train`, start them again, and compare with undisturbed runs."""
    model = random_model(folder, device=device, compute_dtype=dtype)
    saved = work / "saved"
    model.pipeline.save_pretrained(saved)
    del model
    _empty_cache(device)
    sampling = [
        "--model",
        saved,
        "--prompt",
        PROMPT,
        "--num-images-per-prompt",
        8,
        "--num-inference-steps",
        4,
    ]
    sampling += ["--batch-size", 2, "--images-per-shard", 2, "--device", device, "--compute-dtype", dtype]
    training = ["--num-train-steps", 6, "--checkpoint-every", 1, "--eval-every", 0, "--pairs-per-step", 2]
    training += ["--timesteps-per-update", 2, "--learning-rate", 1e-4, "--pairs", "jpeg-compressibility"]
    training += ["--device", device, "--log-ratio-clip", 0.01]
    _command("gen", work / "whole", *sampling)
    _command(
        "gen", work / "data", *sampling, kill_when=lambda: (work / "data/samples/000000.parquet").exists()
    )
    _command("gen", work / "data", *sampling)
    _command("score", work / "data", "--reward", "jpeg-compressibility")
    _command("pair", "rank", work / "data", "--reward", "jpeg-compressibility", "--strategy", "all")
    _command("train", "offline", work / "data", "--out", work / "undisturbed", *training)
    checkpoints = work / "killed/checkpoints"
    killed = _command(
        "train", "offline", work / "data", "--out", work / "killed", *training,
        kill_when=lambda: any(checkpoints.glob("step-*/state.json")),
    )  # fmt: skip
    _command("train", "offline", work / "data", "--out", work / "killed", *training)
    return {
        "samples_equal": _images(work / "whole") == _images(work / "data"),
        "train_was_killed": killed == -signal.SIGKILL,
        "policy_difference": _largest_difference(work / "undisturbed/policy", work / "killed/policy"),
    }


def _images(data: Path) -> list[str]:
    return [
        str(value)
        for value in Dataset.open(data).samples(["image_pixels_sha256"])["image_pixels_sha256"].to_pylist()
    ]


def _largest_difference(one: Path, other: Path) -> float:
    """The largest difference of a weight, relative to the largest weight of its tensor; 0 for equal policies."""
    from safetensors.torch import load_file

    name = "pytorch_lora_weights.safetensors"
    a, b = load_file(one / name), load_file(other / name)
    return max(float((a[key] - b[key]).abs().max() / a[key].abs().max().clamp(min=1e-30)) for key in a)


def _command(name: str, *arguments: object, kill_when: Callable[[], bool] | None = None) -> int:
    """Run a command; kill it by SIGKILL as soon as `kill_when` holds. Returns its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"ppod_cli.{name}", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli"), *sys.path[1:]])},
    )
    while kill_when is not None and process.poll() is None:
        if kill_when():
            process.kill()
        time.sleep(0.02)
    output, _ = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"ppod_cli.{name} ended with {process.returncode}: {output[-1500:]}")
    return process.returncode


def _measured(ways: dict[str, Callable[[], object]], device: str, *, rounds: int) -> dict[str, list[float]]:
    """Wall seconds of every way and round, in turn, after one run of each that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            _synchronize(device)
            start = time.perf_counter()
            run()
            _synchronize(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def _empty_cache(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def _reset_peak(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_gib(device: str) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.device(device).type == "cuda" else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny pipelines of the same classes, for a CPU")
    parser.add_argument(
        "--cases", nargs="*", default=[*CASES, "resume"], help=f"of {', '.join(CASES)} and resume"
    )
    parser.add_argument("--dtypes", nargs="*", help="compute dtypes; each model's own unless given")
    parser.add_argument("--untimed", action="store_true", help="measure no speed, and run fewer samples")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--budget", type=float, default=420, help="start no check after so many seconds")
    options = parser.parse_args()
    start = time.perf_counter()
    report: dict[str, Any] = {"checks": {}}
    with tempfile.TemporaryDirectory() as temporary:
        report["environment"] = _in_child(environment, Path(temporary))
        for title, run in _checks(options, Path(temporary)):
            if time.perf_counter() - start > options.budget:
                found: dict[str, Any] = {"skipped": "the time was used up"}
            else:
                found = _in_child(run, Path(temporary))
                if "CUDA" in found.get("failed", ""):
                    found |= _explained(partial(run, timed=False), Path(temporary))
            report["checks"][title] = found
            report["seconds"] = time.perf_counter() - start
            print(f"[{report['seconds']:5.0f} s] {title}: {_line(found)}", flush=True)
            options.out.write_text(json.dumps(report, indent=1))
    sys.exit(any("failed" in found for found in report["checks"].values()))


def _explained(run: Callable[[], dict[str, Any]], work: Path) -> dict[str, Any]:
    """Run a check that ended in a CUDA fault again: where does it stop, and does another attention kernel help?"""

    def blocking() -> dict[str, Any]:
        os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
        return run()

    def without_cudnn_attention() -> dict[str, Any]:
        torch.backends.cuda.enable_cudnn_sdp(False)
        return run()

    return {ways.__name__: _in_child(ways, work) for ways in (blocking, without_cudnn_attention)}


def _in_child(run: Callable[[], dict[str, Any]], work: Path) -> dict[str, Any]:
    """Run a check in a forked process: a CUDA fault ends that process alone, and its memory is free afterwards."""
    result = work / "result.json"
    result.unlink(missing_ok=True)

    def call() -> None:
        try:
            found = run()
        except BaseException as error:
            found = {
                "failed": f"{type(error).__name__}: {error}"[:2000],
                "traceback": traceback.format_exc()[-4000:],
            }
        result.write_text(json.dumps(found))
        os._exit(0)  # skip the device's own clean-up, which fails after a fault

    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    process.join()
    if not result.exists():
        return {"failed": f"the process ended with {process.exitcode}"}
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def _checks(options: argparse.Namespace, work: Path) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """The checks in their order: every model in its first dtype, then resuming, then the other dtypes."""
    folders: dict[str, Path] = {}
    for name in CASES:
        folders[name] = work / name
        (CASES[name].save_tiny if options.tiny else CASES[name].save)(folders[name])
    first: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    others: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    if "attention" in options.cases and not options.tiny:
        first.append(("gradients of attention kernels", partial(check_attention, options.device)))
    for name in (name for name in options.cases if name in CASES):
        case = CASES[name]
        for number, dtype in enumerate(options.dtypes or case.dtypes):
            timed = number == 0 and not options.untimed
            run = partial(
                check_case, case, folders[name], work, dtype=dtype, device=options.device, timed=timed
            )
            (first if number == 0 else others).append((f"{case.title}, {dtype}", run))
    if "resume" in options.cases:
        (work / "resume").mkdir()
        dtype = "fp32" if options.tiny else "fp16"
        run = partial(check_resume, folders["sd15"], work / "resume", device=options.device, dtype=dtype)
        first.append((f"resume after a kill, {CASES['sd15'].title}", run))
    return first + others


def _line(found: dict[str, Any]) -> str:
    """What was found, in one line."""
    shown = {name: value for name, value in found.items() if name not in ("drift", "traceback")}
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())


if __name__ == "__main__":
    main()
