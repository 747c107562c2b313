"""The generation spec: every option that decides the bytes of a data set, and no other.

Shard i of a data set is a pure function of (spec, i). The spec therefore has a fingerprint, every sample_id
depends on it, and a folder made with one spec rejects another.
"""

import hashlib
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate
from typing import Any

from ppod_data.errors import ConfigError
from ppod_data.format.prompts import prompt_id, unprintable
from ppod_data.format.spec_checks import (
    AT_LEAST_ONE,
    AT_MOST,
    CHOICES,
    FORWARD,
    POLICY,
    SHA256,
    check_prompts,
    check_scheduler,
    check_types,
    short,
)
from ppod_data.support.canonical_json import canonical_json

VERSIONS = (1, 2, 3, 4)
"""Versions of manifest and spec that this ppod reads.

2 is for given images, 3 for a safety checker, 4 for a window of noisy steps.
"""
_FORWARD_ONLY = ("origin", "images")
INFORMATIVE = ("model", "revision", "variant", "adapter")
"""Fields that name the model, and are not in the fingerprint."""
_OPTIONAL = ("safety_checker", "variant", "noisy_steps")
"""Fields that are not written unless set, so that data sets made before them keep their fingerprint and bytes."""
_MAX_SAMPLES = 2**24
_MAX_LATENT = 2**28
_MAX_DIGITS = 9
_WINDOW = re.compile(rf"([0-9]{{1,{_MAX_DIGITS}}}):([0-9]{{1,{_MAX_DIGITS}}})")


@dataclass(frozen=True, kw_only=True)
class GenerationSpec:
    """The generation options of one data set: K images a prompt, T denoising steps, latents [C, H, W].

    >>> from ppod_data import Dataset
    >>> spec = Dataset.open("data").spec
    >>> spec.prompts, spec.num_images_per_prompt
    (('a dog on the moon',), 4)

    Sample n belongs to prompt n // K and has image_index n % K. Shard i holds a run of consecutive samples.
    With given images (`origin`), each prompt has its own number of images, and samples are in the order of
    `images`.
    """

    model: str
    """The policy's name: a folder, a Hub id or "scenes". Not in the fingerprint, like revision, adapter and variant."""
    revision: str | None
    adapter: str | None
    policy_fingerprint: str
    """The policy's identity: the sha256 over its weight files and configurations."""
    scheduler: Mapping[str, Any]
    """The DDIM scheduler's full configuration, or the sigmas of a flow-matching chain; plain JSON values."""
    prompts: tuple[str, ...]
    negative_prompt: str
    num_images_per_prompt: int
    num_inference_steps: int
    guidance_scale: float
    guidance_mode: str
    """"batched" (one call, halves [unconditional, conditional]) or "sequential" (two calls)."""
    ddim_eta: float
    """The noise of a step, above 0: DDIM's η, or the noise level a of a flow-matching chain."""
    initial_noise: str
    """"per-image", or "per-prompt": the K images of a prompt start from one x_T."""
    seed: int
    stage: int
    """0 for offline data, otherwise the number of the online stage; part of the noise's key."""
    purpose: str
    batch_size: int
    images_per_shard: int
    compute_dtype: str
    latent_dtype: str
    """The dtype to which latents are rounded and in which they are stored: "fp32", "bf16" or "fp16"."""
    store_steps: str
    """The steps whose latents are stored: "all", "last:N" or "every:N"."""
    height: int
    """Height of the images in pixels; width likewise."""
    width: int
    latent_shape: tuple[int, int, int]
    origin: str = POLICY
    """"policy": chains sampled by the policy. "forward-process": noise drawn onto given images."""
    images: tuple[tuple[str, ...], ...] = ()
    """For each prompt, the sha256 of its given image files; K is the largest count."""
    variant: str | None = None
    """The loaded variant of the model's weight files, such as fp16; None for files without a variant in their names."""
    safety_checker: str | None = None
    """The sha256 of the safety checker that filled the column `flagged`; None without a checker or column."""
    noisy_steps: str | None = None
    """The steps that draw noise as "A:B", from A to B - 1, if the others are deterministic; None for all steps."""

    def __post_init__(self) -> None:
        """Normalise equal values to one form, so that 7 and 7.0, or a list and a tuple, have one fingerprint."""
        for name in ("guidance_scale", "ddim_eta"):
            value = getattr(self, name)
            if isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, name, float(value))
        for name in ("prompts", "latent_shape"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.images, list):
            images = (tuple(row) if isinstance(row, list) else row for row in self.images)
            object.__setattr__(self, "images", tuple(images))
        if isinstance(self.noisy_steps, str) and (match := _WINDOW.fullmatch(self.noisy_steps)):
            first, end = map(int, match.groups())
            whole = (first, end) == (0, self.num_inference_steps)
            object.__setattr__(self, "noisy_steps", None if whole else f"{first}:{end}")

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of the canonical JSON of every field except those that name the model; 64 hex digits."""
        identity = {key: value for key, value in to_json(self).items() if key not in INFORMATIVE}
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

    @cached_property
    def prompt_ids(self) -> tuple[str, ...]:
        """Return the id of each prompt, in the prompts' order."""
        return tuple(prompt_id(prompt) for prompt in self.prompts)

    @property
    def version(self) -> int:
        """Return the oldest format version whose readers understand the data set."""
        if self.noisy_steps is not None:
            return 4
        if self.is_forward:
            return 2
        return 1 if self.safety_checker is None else 3

    @property
    def is_flow_matching(self) -> bool:
        """Return true for a flow-matching chain: its scheduler is a list of sigmas, not a configuration."""
        return "sigmas" in self.scheduler

    @property
    def is_forward(self) -> bool:
        """Return true if the images were given and their chains come from the forward process."""
        return self.origin == FORWARD

    @cached_property
    def num_samples(self) -> int:
        """Return the number of prompts times images per prompt, or the number of given images."""
        if self.is_forward:
            return sum(map(len, self.images))
        return len(self.prompts) * self.num_images_per_prompt

    @cached_property
    def _ends(self) -> list[int]:
        """Return one past the last sample's number for each prompt of given images."""
        return list(accumulate(map(len, self.images)))

    def place(self, sample: int) -> tuple[int, int]:
        """Return (prompt number, image_index) of a sample, given its number."""
        if not self.is_forward:
            return divmod(sample, self.num_images_per_prompt)
        prompt = bisect_right(self._ends, sample)
        return prompt, sample - (self._ends[prompt - 1] if prompt else 0)

    def num_images_of(self, prompt: int) -> int:
        """Return the number of images of a prompt, given its number."""
        return len(self.images[prompt]) if self.is_forward else self.num_images_per_prompt

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield (prompt number, image_index) of every sample in order."""
        for prompt in range(len(self.prompts)):
            for k in range(self.num_images_of(prompt)):
                yield prompt, k

    @property
    def num_shards(self) -> int:
        """Return the number of shards of images_per_shard samples; the last may be shorter."""
        return math.ceil(self.num_samples / self.images_per_shard)

    def shard_range(self, shard: int) -> range:
        """Return the numbers of a shard's samples. Raises `ConfigError` for a shard outside the data set."""
        if not 0 <= shard < self.num_shards:
            raise ConfigError(
                f"shard {shard} does not exist: this data set has shards 0 to {self.num_shards - 1}"
            )
        start = shard * self.images_per_shard
        return range(start, min(start + self.images_per_shard, self.num_samples))

    def sample_id(self, prompt_id: str, image_index: int) -> str:
        """Return a sample's id, unique across data sets: a hash of [fingerprint, prompt_id, k], 32 hex digits."""
        return hashlib.sha256(self._sample_name(prompt_id, image_index)).hexdigest()[:32]

    def sample_digests(self) -> bytes:
        """Return the ids of all samples in order, 16 bytes each."""
        names = (self._sample_name(self.prompt_ids[prompt], k) for prompt, k in self.places())
        digests = bytearray()  # a list would take four times the memory
        for name in names:
            digests += hashlib.sha256(name).digest()[:16]
        return bytes(digests)

    def _sample_name(self, prompt_id: str, image_index: int) -> bytes:
        """Return the canonical JSON of [fingerprint, prompt_id, image_index]; all three are plain."""
        return f'["{self.fingerprint}","{prompt_id}",{image_index}]'.encode()

    def shard_sample_ids(self, shard: int) -> list[str]:
        """Return the sample_ids of a shard in order."""
        places = map(self.place, self.shard_range(shard))
        return [self.sample_id(self.prompt_ids[prompt], k) for prompt, k in places]

    def stored_steps(self) -> tuple[int, ...]:
        """Return the steps whose latents are stored, ascending; step 0 is the first and noisiest of the chain."""
        return _stored_steps(self.store_steps, self.num_inference_steps)

    @property
    def noisy_range(self) -> range:
        """Return the steps that draw noise; a step without variance has none even so. Raises `ConfigError`."""
        steps = self.num_inference_steps
        return range(steps) if self.noisy_steps is None else _window(self.noisy_steps, steps)

    @property
    def window(self) -> str:
        """Return the steps that draw noise as "A:B", of all steps too; with it, the sampler needs no default."""
        return f"{self.noisy_range.start}:{self.noisy_range.stop}"

    def validate(self) -> None:
        """Check types, ranges and names. Raises `ConfigError` with one line about the first problem."""
        check_types(to_json(self))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(choices)}")
        for name in AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("seed", "stage"):
            if not 0 <= getattr(self, name) < 2**63:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be from 0 to 2**63 - 1")
        if not 0.0 < self.ddim_eta <= 1.0:
            raise ConfigError(
                f"ddim_eta is {self.ddim_eta}: it must be at most 1, and above 0 "
                "(a chain without noise has no log-probabilities)"
            )
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 1.0):
            raise ConfigError(
                f"guidance_scale is {self.guidance_scale}: it must be at least 1 (1 is no guidance)"
            )
        if len(self.latent_shape) != 3 or min(self.latent_shape) < 1:
            raise ConfigError(
                f"latent_shape is {list(self.latent_shape)}: it must be [channels, height, width]"
            )
        _check_bounds(self)
        if bad := unprintable(self.negative_prompt):
            raise ConfigError(f"negative_prompt holds the control character {bad}: remove it")
        self.stored_steps()
        _ = self.noisy_range
        check_prompts(self.prompts)
        _check_origin(self)


def to_json(spec: GenerationSpec) -> dict[str, Any]:
    """Return the spec as plain JSON values, "version" first, then the fields in order.

    The keys of given images are written only for given images, and optional fields only if set.
    """
    names = [field.name for field in fields(spec) if spec.is_forward or field.name not in _FORWARD_ONLY]
    values = {"version": spec.version} | {name: getattr(spec, name) for name in names}
    values = {name: value for name, value in values.items() if value is not None or name not in _OPTIONAL}
    values["scheduler"] = _sorted(spec.scheduler)
    values["prompts"] = list(spec.prompts)
    values["latent_shape"] = list(spec.latent_shape)
    if spec.is_forward:
        values["images"] = [list(row) for row in spec.images]
    return values


def from_json(values: Mapping[str, Any]) -> GenerationSpec:
    """Return the valid spec that `to_json` wrote. Raises `ConfigError` for another version, key or type."""
    version = values.get("version")
    if version not in VERSIONS:
        raise ConfigError(
            f"the spec's version is {version!r}; this ppod reads versions up to {VERSIONS[-1]}: update ppod"
        )
    given = version == 2 or (version == 4 and "origin" in values)
    names = [field.name for field in fields(GenerationSpec) if given or field.name not in _FORWARD_ONLY]
    if unknown := sorted(set(values) - set(names) - {"version"}):
        raise ConfigError(f"the spec has the unknown key {unknown[0]!r}: ppod did not write it")
    names = [name for name in names if name in values or name not in _OPTIONAL]
    if missing := [name for name in names if name not in values]:
        raise ConfigError(f"the spec lacks the key {missing[0]!r}: ppod did not write it")
    check_types(values)
    spec = GenerationSpec(**{name: values[name] for name in names})
    spec.validate()
    if spec.version != version:
        raise ConfigError(
            f"the spec's version is {version}, but its keys are those of version {spec.version}"
        )
    return spec


def _stored_steps(store_steps: str, num_steps: int) -> tuple[int, ...]:
    rule, _, count = store_steps.partition(":")
    if store_steps == "all":
        return tuple(range(num_steps))
    known = rule in ("last", "every") and count.isascii() and count.isdigit()
    if not known or len(count) > _MAX_DIGITS:
        raise ConfigError(f"store_steps is {short(store_steps)}: write all, last:N or every:N")
    number = int(count)
    if not 1 <= number <= num_steps:
        raise ConfigError(
            f"store_steps is {store_steps!r}: N must be from 1 to num_inference_steps ({num_steps})"
        )
    return tuple(range(num_steps))[-number:] if rule == "last" else tuple(range(0, num_steps, number))


def _window(noisy_steps: str, num_steps: int) -> range:
    match = _WINDOW.fullmatch(noisy_steps)
    if match is None:
        raise ConfigError(f"noisy_steps is {short(noisy_steps)}: write A:B, such as 0:{num_steps // 2 or 1}")
    first, end = map(int, match.groups())
    if not first < end <= num_steps:
        raise ConfigError(
            f"noisy_steps is {noisy_steps!r}: it must be a range within 0:{num_steps} of at least one step"
        )
    return range(first, end)


def _check_bounds(spec: GenerationSpec) -> None:
    """Reject sizes that could exhaust a reader's memory; manifests are untrusted input."""
    check_scheduler(spec.scheduler)
    for name, most in AT_MOST.items():
        if getattr(spec, name) > most:
            raise ConfigError(f"{name} is {getattr(spec, name)}: it must be at most {most}")
    if math.prod(spec.latent_shape) > _MAX_LATENT:
        raise ConfigError(f"latent_shape is {list(spec.latent_shape)}: at most {_MAX_LATENT} values")
    if spec.num_samples > _MAX_SAMPLES:
        raise ConfigError(
            f"prompts times num_images_per_prompt is {spec.num_samples:,}: at most {_MAX_SAMPLES:,} images "
            "fit into one data set: split the prompts over several"
        )


def _check_origin(spec: GenerationSpec) -> None:
    """Check a spec of given images: at least one image per prompt, no duplicates within a prompt, purpose "forward"."""
    if spec.is_forward != (spec.purpose == "forward") or spec.is_forward != bool(spec.images):
        raise ConfigError(
            f"origin {spec.origin!r}, purpose {spec.purpose!r} and {len(spec.images)} lists of images contradict each "
            "other: set all three for given images, or none"
        )
    if not spec.is_forward:
        return
    if spec.safety_checker is not None:
        raise ConfigError("a safety checker judges generated images, not given ones: leave it out")
    if len(spec.images) != len(spec.prompts):
        raise ConfigError(
            f"images has {len(spec.images)} lists for {len(spec.prompts)} prompts: give one list for each"
        )
    if max(map(len, spec.images)) != spec.num_images_per_prompt:
        raise ConfigError("num_images_per_prompt must be the largest number of images of a prompt")
    for row, images in enumerate(spec.images):
        if not images or len(set(images)) != len(images) or not all(map(SHA256.fullmatch, images)):
            raise ConfigError(f"images[{row}]: expected distinct sha256 hashes")


def _sorted(value: Any) -> Any:
    """Sort the keys of every object of a JSON value, so that equal specs give the same manifest."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
