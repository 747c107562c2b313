"""A model by name, with its adapter: where it is loaded from, and what is recorded of it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from ppod_data.errors import ConfigError
from ppod_data.support.options import option

if TYPE_CHECKING:
    from ppod_data.diffusion.models.model import DiffusionModel
    from ppod_data.format.spec import GenerationSpec

DEFAULT_MODEL = "scenes"
_MODEL = "The model"
Dtype: TypeAlias = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model that is loaded when it is needed, and as often as it is needed.

    >>> ModelSource(model="scenes").load().latent_shape
    (4, 8, 8)
    """

    model: str | None = option(
        None,
        "scenes (shipped with ppod), a pipeline folder, or an id on the Hugging Face Hub.",
        panel=_MODEL,
        metavar="ID",
        shown_default="the one that made the data or the policy, else scenes",
    )
    revision: str | None = option(
        None,
        "Commit, tag or branch of a Hub model.",
        panel=_MODEL,
        metavar="R",
        shown_default="as for --model",
    )
    variant: str | None = option(
        None,
        "Load the weight files with this word in their names, such as fp16, if the model has them.",
        panel=_MODEL,
        metavar="WORD",
        shown_default="as for --model",
    )
    adapter: str | None = option(
        None,
        "LoRA weights on top of the model, such as a policy that ppod-train made.",
        panel=_MODEL,
        metavar="DIR",
        shown_default="as for --model",
    )
    compute_dtype: Literal["fp32", "bf16", "fp16"] | None = option(
        None,
        "Precision of the network and the text encoder.",
        panel=_MODEL,
        shown_default="that of the data or the policy, else fp32",
    )

    def for_data(self, spec: "GenerationSpec") -> "ModelSource":
        """Return the model that made a data set if none is named, in the data set's precision if none is named."""
        source = replace(self, compute_dtype=self.compute_dtype or as_dtype(spec.compute_dtype))
        if self.model is not None:
            return source
        return replace(
            source,
            model=spec.model,
            revision=self.revision or spec.revision,
            variant=self.variant or spec.variant,
            adapter=self.adapter or spec.adapter,
        )

    def load(self, device: str = "cpu", *, safety_check: bool = False) -> "DiffusionModel":
        """Load the model; without a name, `scenes`. Raises as `load_model`."""
        from ppod_data.diffusion.models.model import load_model

        return load_model(
            self.model or DEFAULT_MODEL,
            revision=self.revision,
            variant=self.variant,
            adapter=self.adapter,
            device=device,
            compute_dtype=self.compute_dtype or "fp32",
            safety_check=safety_check,
        )

    def load_skeleton(self) -> "DiffusionModel":
        """Load configurations and tokenizers without weights. Raises as `ppod_data.diffusion.models.skeleton`."""
        from ppod_data.diffusion.models.skeleton import load_skeleton

        return load_skeleton(
            self.model or DEFAULT_MODEL,
            revision=self.revision,
            variant=self.variant,
            compute_dtype=self.compute_dtype or "fp32",
        )


def as_dtype(name: str) -> Dtype:
    """Return the name of a precision. Raises ConfigError for an unknown one."""
    if name not in get_args(Dtype):
        raise ConfigError(f"compute_dtype {name} is unknown: {', '.join(get_args(Dtype))} are known")
    return cast(Dtype, name)
