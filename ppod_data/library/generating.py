"""`generate`: sample images into a data set folder."""

from collections.abc import Sequence
from contextlib import ExitStack

from ppod_data.cluster.ray_engine import RayCluster, connected
from ppod_data.cluster.ray_jobs import generate_on_ray
from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.generate import GenerateSummary
from ppod_data.generation.generate import generate as generate_shards
from ppod_data.publish.card import write_card
from ppod_data.storage.files import AnyPath, data_path
from ppod_data.support.progress import SILENT, Progress


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
        ConfigError: The data set is sealed and lacks shards, or the cluster cannot be used.
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
    cluster: RayCluster | None = None,
    progress: Progress = SILENT,
) -> GenerateSummary:
    """Do what `generate` does, and return what was made. Arguments and errors are those of `generate`."""
    root = data_path(path)
    numbers = range(spec.num_shards) if shards is None else shards
    with ExitStack() as stack:
        if cluster is None:
            made = generate_shards(root, spec, model, shards=numbers, license=license, progress=progress)
        else:
            device = stack.enter_context(connected(cluster))
            made = generate_on_ray(root, spec, device, shards=numbers, license=license, progress=progress)
    write_card(root)
    return made
