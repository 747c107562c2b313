"""Checks of a generation spec's values, which come from untrusted manifests: types, choices, bounds."""

import math
import re
from collections.abc import Mapping
from typing import Any

from ppod_data.errors import ConfigError
from ppod_data.format.prompts import normalise, unprintable

POLICY, FORWARD = "policy", "forward-process"
DTYPE_NAMES = ("fp32", "bf16", "fp16")
CHOICES = {
    "origin": (POLICY, FORWARD),
    "guidance_mode": ("batched", "sequential"),
    "initial_noise": ("per-image", "per-prompt"),
    "purpose": ("train", "validation", "eval", "forward"),
    "compute_dtype": DTYPE_NAMES,
    "latent_dtype": DTYPE_NAMES,
}
AT_LEAST_ONE = (
    "num_images_per_prompt",
    "num_inference_steps",
    "batch_size",
    "images_per_shard",
    "height",
    "width",
)
AT_MOST = {
    "num_images_per_prompt": 2**20,
    "num_inference_steps": 10_000,
    "batch_size": 2**20,
    "images_per_shard": 2**20,
    "height": 2**16,
    "width": 2**16,
}
MAX_TRAIN_TIMESTEPS = 100_000
"""The most timesteps of a scheduler. Cosine schedules compute one number a timestep in a Python loop."""
_LONGEST_VALUE = 60
SHA256 = re.compile(r"[0-9a-f]{64}")


def check_types(values: Mapping[str, Any]) -> None:
    """Reject values of another type than the fields declare; Python does not check the types of JSON values."""
    images = values.get("images", [])
    good = isinstance(images, list) and all(isinstance(row, list) for row in images)
    _require(
        good and all(isinstance(x, str) for row in images for x in row), "images", "lists of texts", values
    )
    texts = [name for name in CHOICES if name in values]
    for name in (*texts, "model", "policy_fingerprint", "negative_prompt", "store_steps"):
        good = isinstance(values[name], str) if name == "negative_prompt" else _is_text(values[name])
        _require(good, name, "text", values)
    checker = values.get("safety_checker", "0" * 64)
    known = isinstance(checker, str) and SHA256.fullmatch(checker) is not None
    _require(known, "safety_checker", "a sha256 in hexadecimal", values)
    for name in ("revision", "adapter", "variant", "noisy_steps"):
        _require(values.get(name) is None or _is_text(values[name]), name, "text or null", values)
    for name in (*AT_LEAST_ONE, "seed", "stage"):
        _require(type(values[name]) is int, name, "a whole number", values)
    for name in ("guidance_scale", "ddim_eta"):
        _require(type(values[name]) in (int, float), name, "a number", values)
    for name, item_type in (("prompts", str), ("latent_shape", int)):
        good = isinstance(values[name], list) and all(type(item) is item_type for item in values[name])
        _require(good, name, f"a list of {'texts' if item_type is str else 'whole numbers'}", values)
    plain = isinstance(values["scheduler"], dict) and _is_plain(values["scheduler"])
    _require(plain, "scheduler", "an object of plain JSON values", values)


def check_scheduler(config: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a scheduler whose schedule would take unbounded memory or time to compute."""
    steps = config.get("num_train_timesteps", 1)
    if type(steps) is not int or not 1 <= steps <= MAX_TRAIN_TIMESTEPS:
        raise ConfigError(
            f"the scheduler's num_train_timesteps is {short(steps)}: it must be a whole number from 1 to "
            f"{MAX_TRAIN_TIMESTEPS:,}"
        )
    for name in ("trained_betas", "sigmas"):
        values = config.get(name) or ()
        if not isinstance(values, list | tuple) or len(values) > MAX_TRAIN_TIMESTEPS:
            raise ConfigError(
                f"the scheduler's {name} must be a list of at most {MAX_TRAIN_TIMESTEPS:,} numbers"
            )
        if not all(isinstance(value, int | float) for value in values):
            raise ConfigError(f"the scheduler's {name} must be a list of numbers")


def check_prompts(prompts: tuple[str, ...]) -> None:
    """Raise `ConfigError` for no prompts, repeats, or a prompt that is not normalised."""
    if not prompts:
        raise ConfigError("there are no prompts: give at least one")
    seen: set[str] = set()
    for row, prompt in enumerate(prompts):
        if normalise(prompt) != prompt:
            raise ConfigError(
                f"prompts[{row}] is not normalised: pass it through ppod_data.format.prompts.normalise"
            )
        if bad := unprintable(prompt):
            raise ConfigError(f"prompts[{row}] holds the control character {bad}: remove it")
        if prompt in seen:
            raise ConfigError(f"prompts[{row}] repeats {short(prompt)}: remove it")
        seen.add(prompt)


def short(value: Any) -> str:
    """Return a value for a message, cut to one line."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _require(good: bool, name: str, expected: str, values: Mapping[str, Any]) -> None:
    if not good:
        raise ConfigError(f"{name} must be {expected}, not {short(values[name])}")


def _is_text(value: Any) -> bool:
    """Return true for a string that UTF-8 can encode: without lone surrogates, as in names of another encoding."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_plain(value: Any) -> bool:
    """Return true if a JSON round trip preserves the value: no tuples, no numbers of other libraries, no NaN."""
    if isinstance(value, dict):
        return all(_is_text(key) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if type(value) is str:
        return _is_text(value)
    return value is None or type(value) in (bool, int) or (type(value) is float and math.isfinite(value))
