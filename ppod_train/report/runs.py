"""Content of a run's folder, finished or not, as the report reads it.

A training run's folder holds run.json, metrics.jsonl (one object per step) and evals/step-000100/, each with eval.json
and images.png. An evaluation's folder holds before/ and after/ of the same form. An online run's folder holds
online.json, stage-01/run/ (a training run), stage-01/stage.json, and evals/stage-00/ (the pretrained model),
evals/stage-01/ (the policy after stage 1) and so on. Missing or incomplete parts are left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ppod_data.errors import ConfigError
from ppod_train.evaluation.exploitation import Finding, find_in
from ppod_train.evaluation.files import EVAL_NAME, SHEET_NAME
from ppod_train.report.records import Record, finite, part, read_json, read_metrics


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation on disk."""

    label: str
    """"step 100", "pretrained", "stage 2", "before", "after"."""
    record: Record
    """Content of eval.json."""
    sheet: Path | None
    """Path of images.png, if it exists."""
    step: int | None = None
    """Number of training steps before the evaluation, over all stages; None outside training or if unknown."""
    stage: int | None = None
    """The stage that the evaluation follows, 0 for the pretrained model; None outside an online run."""
    queries: float | None = None
    """Images that the reward had scored for the run, of data and validation; None if unknown."""

    @property
    def overall(self) -> Record:
        """Return the metrics over all prompts."""
        return part(self.record, "overall")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of an online run."""

    number: int
    record: Record
    """Content of stage.json; empty during the stage."""
    run_record: Record
    """Content of run.json of the stage's training."""
    first_step: int
    """Number of training steps of the earlier stages."""
    metrics: tuple[Record, ...]
    """One record per step; steps continue those of the earlier stages."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run, offline or online, or an evaluation of a policy."""

    name: str
    record: Record
    """Content of run.json or online.json; empty if the file is missing."""
    metrics: tuple[Record, ...]
    """One record per training step, in order, of all stages."""
    evaluations: tuple[Evaluation, ...]
    """In the order of training steps or stages; or before and after."""
    online: bool = False
    stages: tuple[Stage, ...] = ()
    """Stages of an online run that have begun."""

    @property
    def is_training(self) -> bool:
        """Return True for a training run, False for an evaluation."""
        return (
            bool(self.record) or bool(self.metrics) or any(item.step is not None for item in self.evaluations)
        )

    @property
    def settings(self) -> Record:
        """Return the settings as given; those of an online run are nested."""
        return part(self.record, "settings")

    @property
    def before(self) -> Evaluation | None:
        """Return the starting policy's evaluation: step or stage 0 of a run, the baseline of an evaluation."""
        first = (
            item for item in self.evaluations if item.label == "before" or (item.step == 0 and not item.stage)
        )
        return next(first, None)

    @property
    def later(self) -> tuple[Evaluation, ...]:
        """Return the evaluations after the first."""
        return tuple(item for item in self.evaluations if item is not self.before)

    @property
    def candidates(self) -> tuple[Evaluation, ...]:
        """Return the evaluations among which the kept policy was chosen.

        A run that stops when its policy exploits the reward does not keep that policy; an online run with a single
        stage keeps it all the same.
        """
        if self.settings.get("stop_when") != "exploited":
            return self.later
        sound = tuple(item for item in self.later if finding_of(item) is None)
        return sound if sound or not self.online else self.later[-1:]

    @property
    def after(self) -> Evaluation | None:
        """Return the evaluation of the kept policy, or "after"; None if the starting model was kept.

        Offline the kept policy has the highest mean reward, the starting policy included; online it is the best
        stage's.
        """
        if not self.is_training:
            return next((item for item in self.later if item.label == "after"), None)
        best = max(self.candidates, key=_reward, default=None)
        return None if self.kept_is_start else best

    @property
    def kept_is_start(self) -> bool:
        """Return True if no evaluation of an offline run beat the starting policy, which is then kept."""
        if self.online or not self.is_training or self.before is None or not self.later:
            return False
        best = max((_reward(item) for item in self.candidates), default=-math.inf)
        return best <= _reward(self.before)

    @property
    def last_training(self) -> tuple[Record, tuple[Record, ...]]:
        """Return run.json and metrics of the last stage that has begun training; offline those of the run."""
        trained = [stage for stage in self.stages if stage.run_record or stage.metrics]
        return (trained[-1].run_record, trained[-1].metrics) if trained else (self.record, self.metrics)


def finding_of(evaluation: Evaluation) -> Finding | None:
    """Return what is wrong with an evaluated policy, by the rule of docs/metrics.md."""
    statistics = part(evaluation.record, "statistics")
    return find_in(evaluation.overall, {name: part(statistics, name) for name in statistics})


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        ConfigError: the folder holds neither a training run nor an evaluation.
    """
    stage_folders = (_numbered(folder, "stage"), _numbered(folder / "evals", "stage"))
    online = (folder / "online.json").is_file() or any(stage_folders)
    run = _read_online(folder) if online else _read_offline(folder)
    if not run.record and not run.metrics and not run.evaluations and not run.stages:
        raise ConfigError(
            f"{folder} is not a run: give the output folder of `ppod-train offline`, `online` or `eval`"
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
    evaluations = [
        _evaluation(path, f"step {step}", step=step)
        for step, path in _numbered(folder / "evals", "step").items()
    ]
    return [item for item in evaluations if item is not None]


def _with_queries(evaluations: Sequence[Evaluation], data: float | None) -> list[Evaluation]:
    """Add the number of images scored so far: `data` plus those of each evaluation; 0 for the starting policy."""
    with_queries: list[Evaluation] = []
    total = data
    for item in evaluations:
        images = finite(item.overall.get("num_images"))
        total = None if total is None or images is None else total + images
        with_queries.append(replace(item, queries=total if item.step else 0.0))
    return with_queries


def _read_online(folder: Path) -> Run:
    stages = _stages(folder)
    steps = _totals({stage.number: _num_steps(stage.record, stage.metrics) for stage in stages})
    loaded = [
        _evaluation(
            path,
            f"stage {number}" if number else "pretrained",
            stage=number,
            step=None if (step := steps.get(number)) is None else int(step),
        )
        for number, path in _numbered(folder / "evals", "stage").items()
    ]
    evaluations = [item for item in loaded if item is not None]
    return Run(
        name=folder.resolve().name,
        record=read_json(folder / "online.json") or {},
        metrics=tuple(record for stage in stages for record in stage.metrics),
        evaluations=tuple(_with_stage_queries(evaluations, stages)),
        online=True,
        stages=stages,
    )


def _with_stage_queries(evaluations: Sequence[Evaluation], stages: Sequence[Stage]) -> list[Evaluation]:
    """Add the number of images scored so far: those of the stages and of the first evaluation."""
    totals = _totals({stage.number: finite(stage.record.get("reward_queries")) for stage in stages})
    first = next((finite(item.overall.get("num_images")) for item in evaluations if item.stage == 0), None)
    with_queries: list[Evaluation] = []
    for item in evaluations:
        total = totals.get(item.stage or 0)
        if item.stage and total is not None:
            total += first or 0.0
        with_queries.append(replace(item, queries=total))
    return with_queries


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
    """Return a stage's number of training steps, from stage.json, or from the metrics while it is missing."""
    steps = finite(record.get("steps"))
    return steps if steps is not None or not metrics else float(metrics[-1]["step"])


def _totals(values: Mapping[int, float | None]) -> dict[int, float | None]:
    """Return cumulative sums by stage, 0 before the first; None from the first unknown value on."""
    totals: dict[int, float | None] = {0: 0.0}
    for number in sorted(values):
        before, value = totals.get(number - 1), values[number]
        totals[number] = None if before is None or value is None else before + value
    return totals


def _numbered(folder: Path, prefix: str) -> dict[int, Path]:
    """Return the folders `prefix`-<number> in numerical order."""
    folders = {
        int(digits): path
        for path in folder.glob(f"{prefix}-*")
        if (digits := path.name.removeprefix(f"{prefix}-")).isdecimal() and len(digits) < 10 and path.is_dir()
    }
    return dict(sorted(folders.items()))


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
