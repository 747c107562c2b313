"""The difference between the spec of a data set and another one, and the way out."""

from typing import Any

from ppod_data.errors import SpecMismatchError
from ppod_data.format.spec import INFORMATIVE, GenerationSpec, to_json
from ppod_data.format.spec_checks import FORWARD, POLICY, short


def check_same_spec(existing: GenerationSpec, new: GenerationSpec) -> None:
    """Raise `SpecMismatchError` if two specs differ, naming the first field that differs and both values."""
    if existing.origin != new.origin:
        raise SpecMismatchError(
            f"origin differs: {existing.origin!r} in the data set, {new.origin!r} in the options: use another folder "
            f"({POLICY} is made by ppod-gen, {FORWARD} by ppod-pair import --model)"
        )
    old_values, new_values = (
        to_json(spec)
        | {"version": None, "variant": None}
        | {name: getattr(spec, name) for name in ("safety_checker", "noisy_steps")}
        for spec in (existing, new)
    )
    for name, old in old_values.items():
        if name in INFORMATIVE or old == new_values[name]:
            continue
        raise SpecMismatchError(
            f"{_difference(name, old, new_values[name], existing, new)}: {_way_out(name, existing, new)}"
        )


def _way_out(name: str, existing: GenerationSpec, new: GenerationSpec) -> str:
    """Return the next step for a field that differs. More data of one sampler go into data sets of their own."""
    both = "and train on both, or name both in a file by ppod-data merge"
    if name == "noisy_steps":
        steps = existing.noisy_range
        return f"give --noisy-steps {steps.start}:{steps.stop}, or generate into another folder"
    if name == "num_images_per_prompt" and new.num_images_per_prompt > existing.num_images_per_prompt:
        return (
            f"give {existing.num_images_per_prompt} again; for more images generate into another folder with "
            f"--seed {existing.seed + 1}, since the same seed makes the same images, {both}"
        )
    if name == "prompts" and set(existing.prompts) < set(new.prompts):
        added = len(new.prompts) - len(existing.prompts)
        return f"give the old ones again; generate the {added:,} new ones alone into another folder, {both}"
    return "give the old value again, or generate into another folder"


def _difference(name: str, old: Any, new: Any, existing: GenerationSpec, new_spec: GenerationSpec) -> str:
    if name == "policy_fingerprint":
        return (
            f"policy_fingerprint differs: the data set was made by {_policy(existing)} "
            f"({old[:16]}…), but the options name {_policy(new_spec)} ({new[:16]}…)"
        )
    if name == "images":
        return f"images differs: the data set has {existing.num_samples:,}, the file {new_spec.num_samples:,} others"
    if name == "safety_checker":
        had, has = ("a safety checker" if checker else "none" for checker in (old, new))
        return f"safety_checker differs: {had} ran in the data set, {has if had != has else 'another'} in the options"
    if name == "prompts":
        if len(old) != len(new):
            return f"prompts differs: the data set has {len(old)} prompts, the options give {len(new)}"
        row = next(i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
        old, new, name = old[row], new[row], f"prompts[{row}]"
    if name == "scheduler":
        key = next(key for key in sorted({*old, *new}) if old.get(key) != new.get(key))
        old, new, name = old.get(key), new.get(key), f"scheduler[{key!r}]"
    return f"{name} differs: {short(old)} in the data set, {short(new)} in the options"


def _policy(spec: GenerationSpec) -> str:
    named = {"revision": spec.revision, "variant": spec.variant, "adapter": spec.adapter}
    return spec.model + "".join(f", {key} {value}" for key, value in named.items() if value)
