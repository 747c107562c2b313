"""`ppod-pair import --model`: a data set of the images that a label file holds."""

from typing import TYPE_CHECKING, Annotated

import typer

from ppod_cli.app.dataclass_options import Without
from ppod_cli.app.launch import say_deterministic
from ppod_data.errors import ConfigError
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.support.options import options_of

if TYPE_CHECKING:
    from ppod_data.generation.generate import GenerateSummary

NOT_OF_GIVEN_IMAGES = Without(("negative_prompt", "num_images_per_prompt", "initial_noise"))
_MODEL_OPTIONS = ("revision", "variant", "adapter", "compute_dtype", "device")
_CHAIN_OPTIONS = (*_MODEL_OPTIONS, *(options_of(SamplingSettings).keys() - set(NOT_OF_GIVEN_IMAGES.names)))
"""How the chains of new images are made; without --model there are none to make."""

ForeignModel = Annotated[
    str | None,
    typer.Option(
        help="Make DATASET of the images in the file, for this model: scenes, a pipeline folder, or an id on the "
        "Hugging Face Hub.",
        show_default="the images are DATASET's own",
        metavar="ID",
        rich_help_panel="What to sample",
    ),
]
ForeignGuidance = Annotated[
    float | None,
    typer.Option(
        min=1.0,
        help="Classifier-free guidance of the policy that is trained, 1 is none.",
        show_default="1; the model's own where it is a condition",
        metavar="W",
        rich_help_panel="The chain",
    ),
]


def refuse_chain_options(context: typer.Context) -> None:
    """Raise ConfigError for an option that nothing would read."""
    for name in _CHAIN_OPTIONS:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} says how chains of new images are made: give --model as well")


def say_made(dataset: str, num_prompts: int, made: "GenerateSummary") -> list[str]:
    """Return lines on a data set that was made of given images."""
    there = made.num_samples - made.num_made
    lines = [
        f"{dataset}: {made.num_samples:,} images of {num_prompts:,} prompts, each with a chain drawn onto it"
        + (f"; {there:,} were there" if there else "")
    ]
    lines += say_deterministic(made.deterministic_steps)
    return lines
