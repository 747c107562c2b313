"""Rewards from readings of images: the log-likelihood of the facts that the prompt names.

Shapes: B images, [B, 3, 32, 32] in [-1, 1].
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from ppod_data.errors import ConfigError
from ppod_data.scenes.captions import ANIMALS, PLACES, Facts, parse
from ppod_data.scenes.readers import READ_COLOURS, Reading

LOG_FLOOR = -4.0  # of each fact, so that no single fact outweighs all others
_SIDE = 32
_CHUNK = 64


class SceneScorer:
    """A reward model. Reward = sum over the prompt's facts of max(log p(fact), LOG_FLOOR); at most 0.

    The facts are: each named kind is present; no other kind is; the count of animals is right; the colour is
    right if named; the place is right if named. "A green colored rabbit" therefore has four facts.
    """

    def __init__(self, name: str, network: nn.Module, weights: Path, device: str = "cpu") -> None:
        if not weights.is_file():
            raise ConfigError(f"the weights of the scorer {name!r} are missing: {weights}; run `make scenes`")
        network.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
        self.name = name
        self.revision = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = device

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """Return one reward an image. Raises `ConfigError` for a prompt outside the grammar of `captions`."""
        return [
            sum(max(fact, LOG_FLOOR) for fact in fact_log_probs(facts, row))
            for facts, row in self._read(prompts, images)
        ]

    def check_prompt(self, prompt: str) -> None:
        """Raise ConfigError for a prompt outside the grammar of `captions`."""
        parse(prompt)

    def correct(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[bool]:
        """Return true for each image of which every fact of the prompt is the most probable answer."""
        return [is_correct(facts, row) for facts, row in self._read(prompts, images)]

    def _read(
        self, prompts: Sequence[str], images: Sequence[Image.Image]
    ) -> list[tuple[Facts, dict[str, list[float]]]]:
        if len(prompts) != len(images):
            raise ConfigError(f"{len(prompts)} prompts for {len(images)} images: give one prompt an image")
        facts: dict[str, Facts] = {prompt: parse(prompt) for prompt in dict.fromkeys(prompts)}
        rows: list[dict[str, list[float]]] = []
        for start in range(0, len(images), _CHUNK):
            batch = _batch(images[start : start + _CHUNK]).to(self._device)
            with torch.inference_mode():
                rows += _rows(self._network(batch))
        return [(facts[prompt], row) for prompt, row in zip(prompts, rows, strict=True)]


def fact_log_probs(facts: Facts, row: dict[str, list[float]]) -> list[float]:
    """Return the log-probability of each fact, in the order: kinds named, no other kind, count, colour, place."""
    named = [ANIMALS.index(animal) for animal in facts.animals]
    values = [row["present"][i] for i in named]
    values.append(sum(row["absent"][i] for i in range(len(ANIMALS)) if i not in named))
    values.append(row["total"][facts.count])
    if facts.colour is not None:
        values.append(row["colour"][READ_COLOURS.index(facts.colour)])
    if facts.place is not None:
        values.append(row["place"][PLACES.index(facts.place)])
    return values


def is_correct(facts: Facts, row: dict[str, list[float]]) -> bool:
    """Return true if each fact is the most probable answer to its own question."""
    present = {kind for i, kind in enumerate(ANIMALS) if row["present"][i] > row["absent"][i]}
    answers = [present == set(facts.animals), _argmax(row["total"]) == facts.count]
    if facts.colour is not None:
        answers.append(READ_COLOURS[_argmax(row["colour"])] == facts.colour)
    if facts.place is not None:
        answers.append(PLACES[_argmax(row["place"])] == facts.place)
    return all(answers)


def _argmax(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _rows(reading: Reading) -> list[dict[str, list[float]]]:
    columns: dict[str, Any] = {key: value.cpu().tolist() for key, value in reading._asdict().items()}
    return [{key: column[i] for key, column in columns.items()} for i in range(len(columns["total"]))]


def _batch(images: Sequence[Image.Image]) -> torch.Tensor:
    pixels = []
    for image in images:
        rgb = image.convert("RGB")
        pixels.append(rgb if rgb.size == (_SIDE, _SIDE) else rgb.resize((_SIDE, _SIDE), Image.Resampling.BOX))
    array = np.stack([np.asarray(image) for image in pixels])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1.0
