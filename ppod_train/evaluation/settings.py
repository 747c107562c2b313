"""The choices of an evaluation: Python arguments, command-line options and configuration keys."""

from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ppod_data.errors import ConfigError
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.support.options import check_options, same_option

if TYPE_CHECKING:
    from ppod_data.format.spec import GenerationSpec

GuidanceMode = Literal["batched", "sequential"]


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """Settings that determine an evaluation's images.

    Two evaluations can be compared image by image if these settings agree. None is replaced as in a data set: see
    `ppod_data.generation.build_spec.build_spec`.

    >>> EvalSettings(prompts=("a cat and a dog",), num_images_per_prompt=16).seed
    0
    """

    prompts: tuple[str, ...] = ()
    height: int | None = same_option(SamplingSettings, "height")
    width: int | None = same_option(SamplingSettings, "width")
    negative_prompt: str = same_option(SamplingSettings, "negative_prompt")
    num_images_per_prompt: int = same_option(SamplingSettings, "num_images_per_prompt")
    num_inference_steps: int = same_option(SamplingSettings, "num_inference_steps")
    guidance_scale: float | None = same_option(SamplingSettings, "guidance_scale")
    ddim_eta: float | None = same_option(SamplingSettings, "ddim_eta")
    noisy_steps: str | None = same_option(SamplingSettings, "noisy_steps")
    seed: int = same_option(SamplingSettings, "seed")
    batch_size: int | None = same_option(
        SamplingSettings, "batch_size", help="Images sampled and scored together.", panel=None
    )
    """The last bits of an image depend on it."""
    validation: bool = False
    """True to sample on the validation noise, which chooses a checkpoint during training; reported results use the
    evaluation noise, so that the choice does not bias them."""
    guidance_mode: InitVar[GuidanceMode] = "batched"
    """Both halves of guidance in one network call, or in two, which halves the memory. The images are the same up to
    rounding, so the mode is not compared between evaluations and not recorded: `guidance_mode_of` returns it."""

    def __post_init__(self, guidance_mode: GuidanceMode) -> None:
        """Keep the guidance mode, which `dataclasses.replace` passes on."""
        object.__setattr__(self, "guidance_mode", guidance_mode)

    def validate(self) -> None:
        """Raise ConfigError, naming the option, for a value outside its range or no prompt."""
        if not self.prompts:
            raise ConfigError("no prompts: give --prompt TEXT or --prompts FILE")
        check_options(self)
        if (mode := guidance_mode_of(self)) not in get_args(GuidanceMode):
            raise ConfigError(
                f"guidance_mode {mode} is unknown: {', '.join(get_args(GuidanceMode))} are known"
            )


def guidance_mode_of(settings: EvalSettings) -> str:
    """Return the guidance mode of an evaluation."""
    return str(vars(settings)["guidance_mode"])


def sampler_of(spec: "GenerationSpec") -> dict[str, Any]:
    """Return the settings of an evaluation that samples as for a data set, without size, seed and batches.

    The window of given images on a flow-matching model is that of steps that keep the coefficients, and images are not
    sampled by these: in the sampler's own steps its last noise would stay in them. None is the sampler's own window.
    """
    names = ("negative_prompt", "num_inference_steps", "guidance_scale", "guidance_mode", "ddim_eta")
    of_other_steps = spec.is_forward and spec.is_flow_matching
    return {name: getattr(spec, name) for name in names} | {
        "noisy_steps": None if of_other_steps else spec.window
    }
