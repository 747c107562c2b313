"""Record of the run that trained a policy, read from the policy's parent folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppod_data.errors import DamagedError
from ppod_data.inspect.judge import Judge, JudgePart
from ppod_data.rewards import BUILDERS
from ppod_data.storage.json_reader import read_object

_POLICY = "policy"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Defaults that an evaluation of a run's policy takes from the run."""

    folder: Path
    """Folder of the run, as the caller named it."""
    model: str
    prompts: tuple[str, ...]
    judge: Judge | None
    """The reward that evaluated the policy or made the data; None if the run does not record it."""
    whole: bool
    """True if the policy is a whole pipeline, False for a LoRA."""
    start: Path | None = None
    """The policy that training started from; None if it started from `model`."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Sampler settings: revision, variant, negative_prompt, guidance_scale, compute_dtype …; {} in old runs."""


def run_of(policy: str | None) -> RunRecord | None:
    """Return the record of the run whose policy is `policy`; None if that is not a run's policy.

    Args:
        policy: RUN/policy, or the LoRA file in it.

    Raises:
        DamagedError: the record cannot be read.
    """
    folder = Path(policy) if policy is not None else None
    if folder is not None and folder.suffix == ".safetensors" and folder.is_file():
        folder = folder.parent
    if folder is None or folder.name != _POLICY or not folder.is_dir():
        return None
    for name in ("online.json", "run.json"):
        if (folder.parent / name).is_file():
            return _read(folder.parent / name, whole=(folder / "model_index.json").is_file())
    return None


def _read(file: Path, *, whole: bool) -> RunRecord:
    try:
        record = read_object(file)
        return RunRecord(
            folder=file.parent,
            model=record["model"],
            prompts=tuple(record["prompts"]),
            judge=_judge(record, str(file)),
            whole=whole,
            start=Path(record["start"]) if record.get("start") else None,
            generation=record.get("generation") or {},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{file} cannot be read ({error}): give --model, --prompts and --reward"
        ) from error


def _judge(record: Mapping[str, Any], source: str) -> Judge | None:
    """Return the recorded reward; for an old run with only name and revision, a built-in reward of that name."""
    if record.get("judge"):
        return Judge.from_json(record["judge"], source)
    name, _, revision = str(record.get("reward") or "").partition(" ")
    if name not in BUILDERS:
        return None
    return Judge(name=name, parts=(JudgePart(name=name, revision=revision, reward=name),), source=source)
