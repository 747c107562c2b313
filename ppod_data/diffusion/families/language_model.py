"""Common parts of pipelines that condition on hidden states of a language model.

A prompt's states are padded to a fixed length, so that those of several prompts are rows of one tensor, with a mask of
the tokens that count.

Shapes: B rows, L text tokens, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ppod_data.diffusion.condition import Condition

_UNIT = 64


def chat(pipeline: Any, prompt: str, *, thinking: bool) -> str:
    """Return the text of a prompt as the user's message to an assistant, by the tokenizer's own template."""
    messages = [{"role": "user", "content": prompt}]
    text: str = pipeline.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    return text


def room(pipeline: Any, template: str, length: int) -> int:
    """Return the most tokens of a prompt of which `length` are read together with those of its template."""
    return length - len(pipeline.tokenizer(template).input_ids)


def hidden_states(
    pipeline: Any, text: str, *, layers: Sequence[int], length: int, padded: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return some layers' hidden states of a text, side by side, [1, L, D], and the mask of its tokens, int64 [1, L].

    On the `meta` device the text encoder, which would read its mask, is left out: only shapes are needed there.

    Args:
        pipeline: Has `tokenizer` and `text_encoder`.
        text: One text.
        layers: Indices of hidden states; 0 is the embedding of the tokens.
        length: The most tokens; a longer text is cut.
        padded: Pad the tokens to `length` before they are encoded.
    """
    tokens = pipeline.tokenizer(
        [text],
        padding="max_length" if padded else False,
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    encoder, mask = pipeline.text_encoder, tokens.attention_mask
    if encoder.device.type == "meta":
        width = len(layers) * encoder.config.get_text_config().hidden_size
        return torch.empty(*mask.shape, width, dtype=encoder.dtype, device="meta"), mask
    states = encoder(
        input_ids=tokens.input_ids.to(encoder.device),
        attention_mask=mask.to(encoder.device),
        output_hidden_states=True,
        use_cache=False,
    ).hidden_states
    return torch.cat([states[layer] for layer in layers], dim=-1), mask


def unencoded(encoder: Any, length: int) -> Condition:
    """Return prompt_embeds [1, L, D] and prompt_mask [1, L] of a text encoder on the `meta` device, without values.

    T5 and Gemma would read their masks there, so they are left out: only shapes are needed.
    """
    width = encoder.config.get_text_config().hidden_size
    embeds = torch.empty(1, length, width, dtype=encoder.dtype, device="meta")
    return {"prompt_embeds": embeds, "prompt_mask": torch.empty(1, length, dtype=torch.bool, device="meta")}


def masked(states: torch.Tensor, length: int) -> Condition:
    """Return prompt_embeds [1, L, D] with zeros after the given [1, l, D], and prompt_mask [1, L]; L = `length` ≥ l."""
    embeds = states.new_zeros(1, length, states.shape[2])
    embeds[:, : states.shape[1]] = states
    mask = torch.arange(length, device=states.device)[None] < states.shape[1]
    return {"prompt_embeds": embeds, "prompt_mask": mask}


def token_counts(condition: Condition) -> list[int]:
    """Return the number of tokens of each row of a masked condition; the most that a row has room for on `meta`."""
    mask = condition["prompt_mask"]
    counts: list[int] = [mask.shape[1]] * len(mask) if mask.is_meta else mask.sum(dim=1).tolist()
    return counts


def trimmed(condition: Condition) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (prompt_embeds, prompt_mask) without padding that no row needs, up to a multiple of 64 tokens.

    Rows of similar lengths have one shape whatever batch they are in, so that their results do not depend on it.
    """
    length = -(-max(token_counts(condition)) // _UNIT) * _UNIT
    return condition["prompt_embeds"][:, :length], condition["prompt_mask"][:, :length]
