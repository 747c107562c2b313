"""Read what a run left behind, finished or not, for the report.

A training run's folder holds run.json, metrics.jsonl (one object a step) and evals/step-000100/, each with
eval.json and images.png; an evaluation's folder holds before/ and after/ of the same form. What is missing or
half written is left out.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppod_data.errors import ConfigError
from ppod_train.eval_files import EVAL_NAME, SHEET_NAME

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation on disk."""

    label: str
    """"step 100", "before", "after"."""
    step: int | None
    record: Record
    """eval.json as it is."""
    sheet: Path | None
    """images.png, where it is there."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run, or an evaluation of a policy."""

    name: str
    record: Record
    """run.json as it is; empty where there is none."""
    metrics: tuple[Record, ...]
    """One record a training step, in order; of a step done again after a resume, the later record."""
    evaluations: tuple[Evaluation, ...]
    """In the order of training steps, or before and after."""

    @property
    def is_training(self) -> bool:
        """Whether this is a training run; otherwise it is an evaluation alone."""
        return (
            bool(self.record) or bool(self.metrics) or any(item.step is not None for item in self.evaluations)
        )

    @property
    def before(self) -> Evaluation | None:
        """The untouched policy's evaluation: step 0 of a run, the baseline of an evaluation."""
        return next((item for item in self.evaluations if item.step == 0 or item.label == "before"), None)

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the highest mean reward after the first; "after" of an evaluation."""
        later = [item for item in self.evaluations if item is not self.before]
        return max(later, key=lambda item: float(item.record["overall"]["reward_mean"]), default=None)


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        ConfigError: there is neither a training run nor an evaluation in it.
    """
    names = {"before": None, "after": None}
    places: list[tuple[str, int | None, Path]] = [(name, step, folder / name) for name, step in names.items()]
    for path in sorted((folder / "evals").glob("step-*")):
        digits = path.name.removeprefix("step-")
        if digits.isdigit():
            places.append((f"step {int(digits)}", int(digits), path))
    evaluations = [_evaluation(*place) for place in places]
    run = Run(
        name=folder.resolve().name,
        record=_json(folder / "run.json") or {},
        metrics=_metrics(folder / "metrics.jsonl"),
        evaluations=tuple(item for item in evaluations if item is not None),
    )
    if not run.record and not run.metrics and not run.evaluations:
        raise ConfigError(
            f"{folder} is no run: give a folder that `ppod-train offline` or `ppod-train eval` wrote to"
        )
    return run


def _evaluation(label: str, step: int | None, folder: Path) -> Evaluation | None:
    record = _json(folder / EVAL_NAME)
    if record is None or "overall" not in record:
        return None
    sheet = folder / SHEET_NAME
    return Evaluation(label=label, step=step, record=record, sheet=sheet if sheet.is_file() else None)


def _metrics(path: Path) -> tuple[Record, ...]:
    steps: dict[int, Record] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            record = _parsed(line)
            if record is not None and isinstance(record.get("step"), int):
                steps[record["step"]] = record
    return tuple(steps[step] for step in sorted(steps))


def _json(path: Path) -> Record | None:
    return _parsed(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None


def _parsed(text: str) -> Record | None:
    """A JSON object, or None where the text is not a whole one: a line that is being written."""
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def finite(value: object) -> float | None:
    """A number that can be drawn: None for anything else, NaN and infinities included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
