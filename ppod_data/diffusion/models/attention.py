"""The attention kernels that diffusers is told to use by its own environment variable."""

import os

from ppod_data.diffusion.models.model_folder import reason
from ppod_data.errors import ConfigError
from ppod_data.support.precision import ATTENTION_BACKEND
from ppod_data.support.runtime import quiet_pipelines


def check_attention_backend() -> None:
    """Raise ConfigError if DIFFUSERS_ATTN_BACKEND names kernels that diffusers does not know or cannot use here.

    diffusers would fail at the first network call. Networks whose attention it does not dispatch (UNets, Stable
    Diffusion 3) use torch's kernels whatever the variable says.
    """
    if (name := os.environ.get(ATTENTION_BACKEND)) is None:
        return
    from diffusers.models.modeling_utils import ModelMixin

    try:
        with quiet_pipelines():
            ModelMixin().set_attention_backend(name)
    except (ImportError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{ATTENTION_BACKEND} is {name!r}, and diffusers says: {reason(error)}") from error
