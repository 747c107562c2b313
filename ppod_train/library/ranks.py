"""The number of ranks that a training command starts on this machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppod_data.cluster.local_engine import start_server
from ppod_data.cluster.local_processes import (
    Choice,
    LocalProcesses,
    choose_processes,
    is_worth_sharing,
    most_processes,
    network_flops,
)
from ppod_data.diffusion.models.source import DEFAULT_MODEL, ModelSource
from ppod_data.errors import PpodError
from ppod_data.support.machine import num_gpus

if TYPE_CHECKING:
    from ppod_data.format.spec import GenerationSpec
    from ppod_data.generation.sampling_settings import SamplingSettings
    from ppod_train.online.settings import OnlineSettings
    from ppod_train.settings import TrainSettings

_SMALL_MODEL_BYTES = 100_000_000
_LARGE_MODEL_BYTES = 2_000_000_000
"""Assumed of a model that is not a folder here."""
_WEIGHT_BYTES = 4
_LATENTS = {True: (4, 8, 8), False: (4, 64, 64)}
"""Latent shape [C, H, W] assumed of a small model, and of others."""
_SMALL_PROCESS_BYTES = 1_500_000_000
"""Memory that a process takes beside its imports if the model is small."""


_SIZES = ("height", "width", "num_inference_steps", "guidance_scale", "guidance_mode")
"""Settings of a run that decide how much an evaluation of its policy takes."""
_TRAINED_CALL = 3
"""Network evaluations that take as long as one with its backward pass."""


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """What ranks would share."""

    model: str
    calls: int
    """Network evaluations of one latent; one with a backward pass counts three times."""
    shares: int
    """Network calls of a step or batches of an evaluation, which ranks take in turn."""
    memory: Callable[[], int]
    """Estimate the bytes of a process; called only for large models."""


def choose_ranks(processes: LocalProcesses, describe: Callable[[], RankJob]) -> Choice:
    """Choose the processes of a training command: one if `auto` would save no time, or if the options are invalid.

    Args:
        processes: what the user asked for.
        describe: returns what the processes would share.

    Raises:
        ConfigError: more processes than GPUs.
    """
    alone = Choice(devices=(processes.device,))
    on_gpus = num_gpus(processes.device) > 0
    if most_processes(processes) == 1:
        return alone
    try:
        job = describe()
    except PpodError:
        return alone  # the command itself reports the first of its errors
    model_bytes = denoiser_bytes(job.model)
    is_small = model_bytes < _SMALL_MODEL_BYTES
    if processes.count is None:
        flops = network_flops(model_bytes // _WEIGHT_BYTES, _LATENTS[is_small], job.calls)
        if not is_worth_sharing(flops, processes.device):
            return alone
    start_server()  # it imports while this process estimates the memory
    needs_plan = processes.count is None and not is_small and not on_gpus
    memory = job.memory() if needs_plan else _SMALL_PROCESS_BYTES
    return choose_processes(processes, shares=job.shares, memory=memory)


def denoiser_bytes(model: str) -> int:
    """Return the size of a model's denoiser and VAE on disk; an estimate if the model is not a folder here."""
    from ppod_data.scenes import PIPELINE_PATH

    folder = PIPELINE_PATH if model == "scenes" else Path(model)
    sizes = [path.stat().st_size for path in folder.glob("*/diffusion_pytorch_model*.safetensors")]
    return sum(sizes) or _LARGE_MODEL_BYTES


def offline_job(dataset: str, settings: "TrainSettings", model: ModelSource) -> RankJob:
    """Return what the ranks of `ppod-train offline` share: the network calls of every step.

    Args:
        dataset: the first data set, or the file of a merge.
        settings: of the run.
        model: the reference; without a name, the model that made the data.
    """
    from ppod_data.dataset.dataset import Dataset
    from ppod_data.dataset.merge import expand
    from ppod_data.storage.files import data_path

    spec = Dataset.open(expand([data_path(dataset)])[0]).spec
    source = model.for_data(spec)
    evaluations = _step_evaluations(settings, spec.num_inference_steps)
    num_evals = 1 + settings.num_train_steps // settings.eval_every if settings.eval_every else 0
    images = num_evals * settings.eval_images_per_prompt * len(settings.eval_prompts or spec.prompts)
    return RankJob(
        model=source.model or DEFAULT_MODEL,
        calls=settings.num_train_steps * evaluations * _TRAINED_CALL + images * spec.num_inference_steps,
        shares=-(-evaluations // (settings.batch_size or spec.batch_size)),
        memory=lambda: _training_bytes(source, spec, settings),
    )


def online_job(
    prompts: Sequence[str], settings: "OnlineSettings", sampling: "SamplingSettings", model: ModelSource
) -> RankJob:
    """Return what the ranks of `ppod-train online` share: shards, network calls and evaluations of every stage."""

    def memory() -> int:
        from ppod_data.generation.build_spec import build_spec

        return _training_bytes(model, build_spec(model.load_skeleton(), prompts, sampling), settings.train)

    name = model.model or DEFAULT_MODEL
    evaluations = _step_evaluations(settings.train, sampling.num_inference_steps)
    images = len(prompts[: settings.prompts_per_stage]) * sampling.num_images_per_prompt
    images += len(settings.eval_prompts or prompts) * settings.eval_images_per_prompt
    trained = settings.train.num_train_steps * evaluations * _TRAINED_CALL
    return RankJob(
        model=name,
        calls=settings.num_stages * (trained + images * sampling.num_inference_steps),
        shares=-(-evaluations // (sampling.batch_size or _batch_size(name))),
        memory=memory,
    )


def eval_job(policy: ModelSource, changes: dict[str, Any], num_policies: int) -> RankJob:
    """Return what the ranks of `ppod-train eval` share: batches of images.

    Args:
        policy: the policy's model and adapter.
        changes: the settings that were given; others are those of the policy's run.
        num_policies: 2 with a baseline.
    """
    from ppod_train.evaluation.settings import EvalSettings
    from ppod_train.run.run_record import run_of

    run = run_of(policy.adapter) or run_of(policy.model)
    values = {name: run.generation[name] for name in _SIZES if name in run.generation} if run else {}
    settings = EvalSettings(**{"prompts": run.prompts if run else ()} | values | changes)
    name = policy.model or (run.model if run else DEFAULT_MODEL)
    source = replace(policy, model=name)

    def memory() -> int:
        from ppod_data.generation.cost import plan_generation
        from ppod_train.evaluation.evaluate import eval_spec

        skeleton = source.load_skeleton()
        plan = plan_generation(skeleton, eval_spec(skeleton, settings))
        return plan.peak_bytes + plan.embedding_bytes

    images = len(settings.prompts) * settings.num_images_per_prompt
    return RankJob(
        model=name,
        calls=num_policies * images * settings.num_inference_steps,
        shares=-(-images // (settings.batch_size or _batch_size(name))),
        memory=memory,
    )


def _training_bytes(model: ModelSource, spec: "GenerationSpec", settings: "TrainSettings") -> int:
    """Estimate the peak memory of a training process, as `--dry-run` does."""
    from ppod_train.run.cost import plan_training

    plan = plan_training(model.load_skeleton(), spec, settings)
    return plan.peak_bytes + plan.generation.embedding_bytes


def _step_evaluations(settings: "TrainSettings", num_inference_steps: int) -> int:
    """Return the network evaluations of an optimizer step."""
    timesteps = min(settings.timesteps_per_update or num_inference_steps, num_inference_steps)
    return 2 * settings.pairs_per_step * timesteps


def _batch_size(model: str) -> int:
    """Return the batch size that `build_spec` chooses for images of a model's own size."""
    return 64 if denoiser_bytes(model) < _SMALL_MODEL_BYTES else 8
