"""Prompts of more tokens than a text encoder reads, counted before anything is sampled.

if note := describe_cut_prompts(model, prompts, ""):
    print(note)  # 3 of 40 prompts are cut: …
"""

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.support.runtime import quiet_pipelines

_PROMPTS_AT_ONCE = 1024
_SHOWN = 60


def describe_cut_prompts(model: DiffusionModel, prompts: Sequence[str], negative_prompt: str) -> str | None:
    """Return one line on the prompts that text encoders cut, with an example; None if every prompt is read whole.

    Prompts that differ only in what is cut are counted as well: the model cannot tell them apart.
    """
    cut: dict[str, int] = {}
    example: str | None = None
    seen: set[bytes] = set()
    encoders = list(_encoders(model))
    for first in range(0, len(prompts), _PROMPTS_AT_ONCE):
        part = prompts[first : first + _PROMPTS_AT_ONCE]
        digests = [hashlib.sha256() for _ in part]
        for name, tokenizer, limit in encoders:
            for prompt, digest, ids in zip(part, digests, _token_ids(tokenizer, part), strict=True):
                digest.update(repr(ids[: limit - 1]).encode())  # the last place is the end token's
                if len(ids) > limit:
                    cut[name] = cut.get(name, 0) + 1
                    example = example or prompt
        seen.update(digest.digest() for digest in digests)
    limits = {name: limit for name, _, limit in encoders}
    negative = [
        name
        for name, tokenizer, limit in encoders
        if len(_token_ids(tokenizer, [negative_prompt])[0]) > limit
    ]
    parts = [
        f"{count:,} of {len(prompts):,} at {limits[name]} tokens of {name}" for name, count in cut.items()
    ]
    parts += [f"the negative prompt at {limits[name]} tokens of {name}" for name in negative]
    if not parts:
        return None
    alike = len(prompts) - len(seen)
    return (
        f"prompts are longer than the model reads, and are cut: {', '.join(parts)}"
        + (f" (such as {_short(example)!r})" if example else "")
        + (f"; {alike:,} of them the model cannot tell from another" if alike else "")
    )


def _encoders(model: DiffusionModel) -> Iterator[tuple[str, Any, int]]:
    """Yield each text encoder's name, its tokenizer and the most tokens that it reads, those at both ends included."""
    pipeline: Any = model.pipeline
    sequence = inspect.signature(pipeline.encode_prompt).parameters.get("max_sequence_length")
    for name in model.family.text_encoders:
        tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"), None)
        encoder = getattr(pipeline, name, None)
        if tokenizer is None or encoder is None:
            continue
        if model.family.prompt_tokens is not None:
            tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor of images and text has one
            yield name, tokenizer, model.family.prompt_tokens(pipeline)
            continue
        of_t5 = encoder.config.model_type == "t5" and sequence is not None
        yield name, tokenizer, sequence.default if of_t5 and sequence else tokenizer.model_max_length


def _token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    with quiet_pipelines():
        ids: list[list[int]] = tokenizer(list(texts), verbose=False).input_ids
    return ids


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
