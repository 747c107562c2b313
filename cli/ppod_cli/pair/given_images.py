"""`ppod-pair import --model`: a data set of the images that a label file holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppod_cli.app.launch import resolve_device, say_deterministic
from ppod_data.errors import ConfigError

if TYPE_CHECKING:
    from ppod_data.generation.generate import GenerateSummary
    from ppod_data.storage.files import DataPath

CHAIN_OPTIONS = (
    "revision",
    "variant",
    "adapter",
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "guidance_mode",
    "ddim_eta",
    "compute_dtype",
    "latent_dtype",
    "batch_size",
    "images_per_shard",
    "store_steps",
    "device",
)
"""How the chains of new images are made; without --model there are none to make."""

ForeignModel = Annotated[
    str | None,
    typer.Option(
        help="Make DATASET of the images in the file, for this model: scenes, a pipeline folder, or an id on the "
        "Hugging Face Hub; DDIM chains only.",
        show_default="the images are DATASET's own",
        metavar="ID",
        rich_help_panel="What to sample",
    ),
]
ForeignGuidance = Annotated[
    float,
    typer.Option(
        min=1.0,
        help="Classifier-free guidance of the policy that is trained, 1 is none.",
        metavar="W",
        rich_help_panel="The chain",
    ),
]


def refuse_chain_options(context: typer.Context) -> None:
    """Raise ConfigError for an option that nothing would read."""
    for name in CHAIN_OPTIONS:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} says how chains of new images are made: give --model as well")


def make_dataset(
    root: "DataPath",
    path: Path,
    format: str,
    license: str,
    skip_bad: bool,
    model: str,
    chain: Mapping[str, Any],
) -> "GenerateSummary":
    """The data set of the images of a label file."""
    from ppod_cli.app.progress import progress
    from ppod_data.diffusion.models.model import load_model
    from ppod_data.labels.foreign import build_dataset

    chain = dict(chain)
    loaded = load_model(
        model,
        revision=chain.pop("revision"),
        variant=chain.pop("variant"),
        adapter=chain.pop("adapter"),
        device=resolve_device(chain.pop("device")),
        compute_dtype=chain.pop("compute_dtype"),
    )
    with progress(0, "images", "images") as shown:
        return build_dataset(
            root,
            path,
            loaded,
            format=format,
            license=license,
            skip_bad=skip_bad,
            progress=shown,
            **chain,
        )


def say_made(dataset: str, num_prompts: int, made: "GenerateSummary") -> list[str]:
    there = made.num_samples - made.num_made
    lines = [
        f"{dataset}: {made.num_samples:,} images of {num_prompts:,} prompts, each with a chain drawn onto it"
        + (f"; {there:,} were there" if there else "")
    ]
    lines += say_deterministic(made.deterministic_steps)
    return lines
