"""What a run left behind, finished or not, as the report sees it.

A training run's folder holds run.json, metrics.jsonl (one object a step) and evals/step-000100/, each with
eval.json and images.png; an evaluation's folder holds before/ and after/ of the same form. An online run's folder
holds online.json, stage-01/run/ (a training run), stage-01/stage.json, and evals/stage-00/ (the pretrained model),
evals/stage-01/ (the policy after stage 1) and so on. What is missing or half written is left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ppod_data.errors import ConfigError
from ppod_train.evaluation.files import EVAL_NAME, SHEET_NAME
from ppod_train.report.records import Record, finite, part, read_json, read_metrics


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation on disk."""

    label: str
    """"step 100", "pretrained", "stage 2", "before", "after"."""
    record: Record
    """eval.json as it is."""
    sheet: Path | None
    """images.png, where it is there."""
    step: int | None = None
    """Training steps before it, those of all stages; None outside training, or where not known."""
    stage: int | None = None
    """The stage that it ends, 0 for the pretrained model; None outside an online run."""
    queries: float | None = None
    """Images that the reward had scored for the run, of data and of validation; None where not known."""

    @property
    def overall(self) -> Record:
        """The figures over all prompts."""
        return part(self.record, "overall")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of an online run."""

    number: int
    record: Record
    """stage.json as it is; empty while the stage is under way."""
    run_record: Record
    """run.json of its training."""
    first_step: int
    """Training steps of the stages before."""
    metrics: tuple[Record, ...]
    """Their steps count on from the stages before."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run, offline or online, or an evaluation of a policy."""

    name: str
    record: Record
    """run.json or online.json as it is; empty where there is none."""
    metrics: tuple[Record, ...]
    """One record a training step, in order, of all stages."""
    evaluations: tuple[Evaluation, ...]
    """In the order of training steps or stages, or before and after."""
    online: bool = False
    stages: tuple[Stage, ...] = ()
    """Of an online run; those that have begun."""

    @property
    def is_training(self) -> bool:
        """Whether this is a training run; otherwise it is an evaluation alone."""
        return (
            bool(self.record) or bool(self.metrics) or any(item.step is not None for item in self.evaluations)
        )

    @property
    def settings(self) -> Record:
        """As they were given; those of an online run are nested."""
        return part(self.record, "settings")

    @property
    def before(self) -> Evaluation | None:
        """The untouched policy's evaluation: step or stage 0 of a run, the baseline of an evaluation."""
        first = (
            item for item in self.evaluations if item.label == "before" or (item.step == 0 and not item.stage)
        )
        return next(first, None)

    @property
    def later(self) -> tuple[Evaluation, ...]:
        """The evaluations after the first."""
        return tuple(item for item in self.evaluations if item is not self.before)

    @property
    def after(self) -> Evaluation | None:
        """The kept policy's; "after" of an evaluation. None where the kept policy is the starting model.

        Offline that is the first of the highest mean reward, the untouched policy's included; online the best stage's.
        """
        if not self.is_training:
            return next((item for item in self.later if item.label == "after"), None)
        best = max(self.later, key=_reward, default=None)
        return None if self.kept_is_start else best

    @property
    def kept_is_start(self) -> bool:
        """Whether no evaluation of a training beat the untouched policy's, so that this one was kept."""
        if self.online or not self.is_training or self.before is None or not self.later:
            return False
        return max(_reward(item) for item in self.later) <= _reward(self.before)

    @property
    def last_training(self) -> tuple[Record, tuple[Record, ...]]:
        """run.json and metrics of the last stage that trains or has trained; offline, of the run."""
        trained = [stage for stage in self.stages if stage.run_record or stage.metrics]
        return (trained[-1].run_record, trained[-1].metrics) if trained else (self.record, self.metrics)


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        ConfigError: there is neither a training run nor an evaluation in it.
    """
    traces = (_numbered(folder, "stage"), _numbered(folder / "evals", "stage"))
    online = (folder / "online.json").is_file() or any(traces)
    run = _read_online(folder) if online else _read_offline(folder)
    if not run.record and not run.metrics and not run.evaluations and not run.stages:
        raise ConfigError(
            f"{folder} is no run: give a folder that `ppod-train offline`, `online` or `eval` wrote to"
        )
    return run


def _read_offline(folder: Path) -> Run:
    record = read_json(folder / "run.json") or {}
    ends = [_evaluation(folder / name, name) for name in ("before", "after")]
    return Run(
        name=folder.resolve().name,
        record=record,
        metrics=read_metrics(folder / "metrics.jsonl"),
        evaluations=(
            *(item for item in ends if item is not None),
            *_with_queries(_while_training(folder), finite(record.get("num_trajectories"))),
        ),
    )


def _reward(item: Evaluation) -> float:
    reward = finite(item.overall.get("reward_mean"))
    return -math.inf if reward is None else reward


def _while_training(folder: Path) -> list[Evaluation]:
    found = [
        _evaluation(path, f"step {step}", step=step)
        for step, path in _numbered(folder / "evals", "step").items()
    ]
    return [item for item in found if item is not None]


def _with_queries(evaluations: Sequence[Evaluation], data: float | None) -> list[Evaluation]:
    """With the images scored so far, the `data` and each evaluation's; for the untouched policy none were needed."""
    counted: list[Evaluation] = []
    total = data
    for item in evaluations:
        images = finite(item.overall.get("num_images"))
        total = None if total is None or images is None else total + images
        counted.append(replace(item, queries=total if item.step else 0.0))
    return counted


def _read_online(folder: Path) -> Run:
    stages = _stages(folder)
    steps = _totals({stage.number: _num_steps(stage.record, stage.metrics) for stage in stages})
    found = [
        _evaluation(
            path,
            f"stage {number}" if number else "pretrained",
            stage=number,
            step=None if (step := steps.get(number)) is None else int(step),
        )
        for number, path in _numbered(folder / "evals", "stage").items()
    ]
    evaluations = [item for item in found if item is not None]
    return Run(
        name=folder.resolve().name,
        record=read_json(folder / "online.json") or {},
        metrics=tuple(record for stage in stages for record in stage.metrics),
        evaluations=tuple(_with_stage_queries(evaluations, stages)),
        online=True,
        stages=stages,
    )


def _with_stage_queries(evaluations: Sequence[Evaluation], stages: Sequence[Stage]) -> list[Evaluation]:
    """With the images scored so far: the stages', and those of the first evaluation, which no stage counts."""
    totals = _totals({stage.number: finite(stage.record.get("reward_queries")) for stage in stages})
    first = next((finite(item.overall.get("num_images")) for item in evaluations if item.stage == 0), None)
    counted: list[Evaluation] = []
    for item in evaluations:
        total = totals.get(item.stage or 0)
        if item.stage and total is not None:
            total += first or 0.0
        counted.append(replace(item, queries=total))
    return counted


def _stages(folder: Path) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    first_step = 0
    for number, path in _numbered(folder, "stage").items():
        record = read_json(path / "stage.json") or {}
        metrics = read_metrics(path / "run" / "metrics.jsonl")
        stages.append(
            Stage(
                number=number,
                record=record,
                run_record=read_json(path / "run" / "run.json") or {},
                first_step=first_step,
                metrics=tuple({**line, "step": first_step + line["step"]} for line in metrics),
            )
        )
        first_step += int(_num_steps(record, metrics) or 0)
    return tuple(stages)


def _num_steps(record: Record, metrics: Sequence[Record]) -> float | None:
    """A stage's training steps, of stage.json or of the metrics where that is not there yet."""
    steps = finite(record.get("steps"))
    return steps if steps is not None or not metrics else float(metrics[-1]["step"])


def _totals(values: Mapping[int, float | None]) -> dict[int, float | None]:
    """The sum of all stages up to each, 0 before the first; None from a stage on of which it is not known."""
    totals: dict[int, float | None] = {0: 0.0}
    for number in sorted(values):
        before, value = totals.get(number - 1), values[number]
        totals[number] = None if before is None or value is None else before + value
    return totals


def _numbered(folder: Path, prefix: str) -> dict[int, Path]:
    """The folders `prefix`-<number>, in order of their numbers."""
    found = {
        int(digits): path
        for path in folder.glob(f"{prefix}-*")
        if (digits := path.name.removeprefix(f"{prefix}-")).isdecimal() and len(digits) < 10 and path.is_dir()
    }
    return dict(sorted(found.items()))


def _evaluation(
    folder: Path,
    label: str,
    *,
    step: int | None = None,
    stage: int | None = None,
) -> Evaluation | None:
    record = read_json(folder / EVAL_NAME)
    if record is None or not part(record, "overall"):
        return None
    sheet = folder / SHEET_NAME
    return Evaluation(
        label=label,
        step=step,
        stage=stage,
        record=record,
        sheet=sheet if sheet.is_file() else None,
    )
