"""The choices of an evaluation: Python arguments, command-line options and configuration keys."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppod_data.errors import ConfigError
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.support.options import check_options, same_option

if TYPE_CHECKING:
    from ppod_data.format.spec import GenerationSpec


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

    def validate(self) -> None:
        """Raise ConfigError, naming the option, for a value outside its range or no prompt."""
        if not self.prompts:
            raise ConfigError("no prompts: give --prompt TEXT or --prompts FILE")
        check_options(self)


def sampler_of(spec: "GenerationSpec") -> dict[str, Any]:
    """Return the settings of an evaluation that samples as for a data set, without size, seed and batches.

    The window of given images on a flow-matching model is that of steps that keep the coefficients, and images are not
    sampled by these: in the sampler's own steps its last noise would stay in them. None is the sampler's own window.
    """
    names = ("negative_prompt", "num_inference_steps", "guidance_scale", "ddim_eta")
    of_other_steps = spec.is_forward and spec.is_flow_matching
    return {name: getattr(spec, name) for name in names} | {
        "noisy_steps": None if of_other_steps else spec.window
    }
