"""The run that trained a policy, found beside it: how its images are made and judged."""

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
    """What an evaluation of a run's policy takes from the run, unless it is given otherwise."""

    shown: Path
    """The run's folder, as the policy's was given."""
    model: str
    prompts: tuple[str, ...]
    judge: Judge | None
    """The reward that judged, or that made the data; None where the run does not say."""
    whole: bool
    """Whether the policy is a whole pipeline, not a LoRA."""
    start: Path | None = None
    """The policy that training started from; None if it started from `model`."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """How images are made: revision, variant, negative_prompt, guidance_scale, compute_dtype …; {} in old runs."""


def run_of(policy: str | None) -> RunRecord | None:
    """Return the record of the run whose policy is in the folder `policy`; None where that is no run's.

    Raises:
        DamagedError: the record cannot be read.
    """
    folder = Path(policy) if policy is not None else None
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
            shown=file.parent,
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
    """Of an old run, which recorded name and revision alone, a reward whose name loads it."""
    if record.get("judge"):
        return Judge.from_json(record["judge"], source)
    name, _, revision = str(record.get("reward") or "").partition(" ")
    if name not in BUILDERS:
        return None
    return Judge(name=name, parts=(JudgePart(name=name, revision=revision, reward=name),), source=source)
