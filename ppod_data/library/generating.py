"""`generate`: sample images into a data set folder."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack

from ppod_data.cluster.engines import started_engine
from ppod_data.cluster.jobs import generate_by
from ppod_data.cluster.local_processes import (
    Choice,
    LocalProcesses,
    choose_processes,
    is_worth_sharing,
    network_flops,
)
from ppod_data.cluster.ray_engine import RayCluster
from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel, calls_per_prediction
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.format.shards import committed_shards
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.cost import plan_generation
from ppod_data.generation.generate import GenerateSummary
from ppod_data.generation.generate import generate as generate_shards
from ppod_data.generation.sampling import build_policy
from ppod_data.inspect.card import write_card
from ppod_data.library.datasets import new_root
from ppod_data.storage.files import AnyPath
from ppod_data.support.progress import SILENT, Progress
from ppod_data.support.runtime import device_kind


def generate(
    path: AnyPath,
    spec: GenerationSpec,
    model: DiffusionModel,
    *,
    shards: Sequence[int] | None = None,
    license: str = "unknown",
    cluster: RayCluster | None = None,
    progress: Progress = SILENT,
) -> Dataset:
    """Sample the images of a spec, record their denoising chains, and return the data set.

    Run the same call again to continue after an interruption: finished shards are kept. The card is written at the end.

    >>> from ppod_data import build_spec, generate, load_model
    >>> model = load_model("scenes")
    >>> spec = build_spec(model, ["a dog on the moon"], num_images_per_prompt=2, num_inference_steps=2)
    >>> dataset = generate("images", spec, model)
    >>> dataset.samples().num_rows
    2

    Args:
        path: Folder or URL of the data set, new or made with the same spec.
        spec: What to sample, from `build_spec`.
        model: The model of the spec. It is not changed.
        shards: Numbers of the shards to make; all unless given. Several machines share a data set by disjoint numbers.
        license: SPDX identifier of the data set.
        cluster: Ray cluster whose workers load the model and make the shards; None for this process.
        progress: Counts images.

    Raises:
        SpecMismatchError: The folder holds a data set made with another spec.
        ConfigError: The data set is sealed and lacks shards, the folder is inside a data set, run or evaluation, or the
            cluster cannot be used.
        NonFiniteError: The model gave NaN or infinite latents; that shard is not written.
    """
    make(path, spec, model, shards=shards, license=license, cluster=cluster, progress=progress)
    return Dataset.open(path)


def make(
    path: AnyPath,
    spec: GenerationSpec,
    model: DiffusionModel,
    *,
    shards: Sequence[int] | None = None,
    license: str = "unknown",
    cluster: RayCluster | LocalProcesses | None = None,
    progress: Progress = SILENT,
) -> GenerateSummary:
    """Do what `generate` does, also in several processes of this machine, and return what was made.

    Arguments and errors are those of `generate`. Processes of this machine load the model themselves; a single process
    uses `model`.
    """
    root = new_root(path)
    build_policy(spec, model)  # refuses what the model does not take, before processes start
    numbers = range(spec.num_shards) if shards is None else shards
    workers: RayCluster | Choice | None = None
    if isinstance(cluster, LocalProcesses):
        choice = choose_for(cluster, spec, model, set(numbers) - set(committed_shards(root)))
        if choice.reason:
            progress.say(f"gen: {choice.reason}")
        is_here = len(choice.devices) == 1 and device_kind(choice.devices[0]) == device_kind(model.device)
        workers = None if is_here else choice
    else:
        workers = cluster
    with ExitStack() as stack:
        if workers is None:
            made = generate_shards(root, spec, model, shards=numbers, license=license, progress=progress)
        else:
            engine = stack.enter_context(started_engine(workers))
            made = generate_by(
                engine.map_shards, root, spec, shards=numbers, license=license, progress=progress
            )
    write_card(root)
    return made


def choose_for(
    processes: LocalProcesses, spec: GenerationSpec, model: DiffusionModel, missing: Collection[int]
) -> Choice:
    """Choose the processes that make the shards `missing`: one if `auto` would save no time."""
    samples = sum(len(spec.shard_range(shard)) for shard in missing)
    calls = samples * spec.num_inference_steps * calls_per_prediction(model, spec.guidance_scale)
    num_weights = sum(parameter.numel() for parameter in model.denoiser.parameters())
    flops = network_flops(num_weights, spec.latent_shape, calls)
    if len(missing) < 2 or (processes.count is None and not is_worth_sharing(flops, processes.device)):
        return choose_processes(processes, shares=1, memory=0)
    skeleton = load_skeleton(
        spec.model, revision=spec.revision, variant=spec.variant, compute_dtype=spec.compute_dtype
    )
    plan = plan_generation(skeleton, spec)
    return choose_processes(processes, shares=len(missing), memory=plan.peak_bytes + plan.embedding_bytes)
