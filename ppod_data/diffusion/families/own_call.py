"""Options of a pipeline's own call in diffusers, with which it guides as a family does here.

Options are Python source by name, so that a policy's card can print them; `pipe` is the pipeline.
"""

import json
from collections.abc import Mapping
from typing import Any

Options = Mapping[str, str]
"""Name of an option -> its value as Python source, in which `pipe` is the pipeline."""


def literal(value: Any) -> str:
    """Return a JSON value as Python source, strings in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def classifier_free(guidance_scale: float, negative_prompt: str) -> Options:
    """Return `guidance_scale`, and `negative_prompt` unless it is empty.

    >>> from ppod_data.diffusion.families.own_call import classifier_free
    >>> classifier_free(5.0, "blurry")
    {'guidance_scale': '5.0', 'negative_prompt': '"blurry"'}
    """
    options = {"guidance_scale": literal(guidance_scale)}
    return options | {"negative_prompt": literal(negative_prompt)} if negative_prompt else options


def unbinned(guidance_scale: float, negative_prompt: str) -> Options:
    """Return the options of a pipeline that otherwise makes an image of another size and resizes it."""
    return {**classifier_free(guidance_scale, negative_prompt), "use_resolution_binning": literal(False)}
