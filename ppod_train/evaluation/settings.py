"""The choices of an evaluation: Python arguments, command-line options and configuration keys."""

from dataclasses import dataclass

from ppod_data.errors import ConfigError
from ppod_data.support.options import check_options, option

_SAMPLE, _CHAIN = "What to sample", "The chain"


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """Settings that determine an evaluation's images.

    Two evaluations can be compared image by image if these settings agree. None is replaced as in a data set: see
    `ppod_data.generation.build_spec.build_spec`.

    >>> EvalSettings(prompts=("a cat and a dog",), num_images_per_prompt=16).seed
    0
    """

    prompts: tuple[str, ...] = ()
    height: int | None = option(
        None,
        "Of the images, in pixels.",
        panel=_SAMPLE,
        metavar="H",
        shown_default="the model's own",
        min=1,
    )
    width: int | None = option(
        None,
        "Of the images, in pixels.",
        panel=_SAMPLE,
        metavar="W",
        shown_default="the model's own",
        min=1,
    )
    negative_prompt: str = option(
        "", "What guidance steers away from; no effect at guidance scale 1.", panel=_SAMPLE, metavar="TEXT"
    )
    num_images_per_prompt: int = option(
        64, "K: images sampled for each prompt.", panel=_SAMPLE, metavar="K", min=1
    )
    num_inference_steps: int = option(20, "T: denoising steps.", panel=_CHAIN, metavar="T", min=1, max=1000)
    guidance_scale: float | None = option(
        None,
        "Classifier-free guidance, 1 is none; for FLUX.1-dev the scale that it was distilled to obey.",
        panel=_CHAIN,
        metavar="W",
        shown_default="1.0 for scenes, 5.0 otherwise; 4.5 for Stable Diffusion 3, 3.5 for FLUX.1-dev",
        min=1,
    )
    ddim_eta: float | None = option(
        None,
        "Noise of a step, above 0: DDIM's eta, or the noise level of a flow-matching model.",
        panel=_CHAIN,
        metavar="ETA",
        shown_default="1.0, for flow matching 0.7",
        above=0,
        max=1,
        reason=": a chain without noise has no log-probabilities",
    )
    seed: int = option(0, "Seed of all noise.", panel=_SAMPLE, metavar="SEED", min=0)
    batch_size: int | None = option(
        None,
        "Images sampled and scored together.",
        metavar="N",
        shown_default="64, or 8 above 64 pixels",
        min=1,
    )
    """The last bits of an image depend on it."""
    validation: bool = False
    """True to sample on the validation noise, which chooses a checkpoint during training; reported results use the
    evaluation noise, so that the choice does not bias them."""

    def validate(self) -> None:
        """Raise ConfigError, naming the option, for a value outside its range or no prompt."""
        if not self.prompts:
            raise ConfigError("an evaluation needs prompts: give at least one")
        check_options(self)
