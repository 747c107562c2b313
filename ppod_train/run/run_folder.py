"""Files of a training run: records of its start and end, and the cleanup of a resume.

run.json                 settings, data, identities, drift; written at the start
metrics.jsonl            one line per optimizer step (`ppod_train.step.metrics.StepMetrics`)
evaluations.jsonl        one line per evaluation (`ppod_train.evaluation.log`)
tensorboard/             the same metrics, and those of the evaluations as eval/…
evals/step-000020/       an evaluation on validation noise (`ppod_train.evaluation.files`); step-000000 is the
                         reference
checkpoints/step-000020/ the newest two, to resume from; one of each policy that was the best so far, before policy/
policy/                  the best policy so far, for plain diffusers
summary.json             written at the end
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from ppod_data.format.spec import GenerationSpec
from ppod_data.inspect.judge import Judge
from ppod_data.storage.files import atomic_write, open_file
from ppod_data.storage.folders import remove_folder
from ppod_data.storage.json_reader import parse_json, read_object
from ppod_data.storage.real_folders import make_folder, open_in_place, remove_file
from ppod_data.support.environment import environment
from ppod_train.data.training_data import DataSource
from ppod_train.evaluation.files import write_evaluation
from ppod_train.evaluation.log import forget_evaluations, log_evaluation
from ppod_train.evaluation.metrics import EvalResult
from ppod_train.evaluation.settings import sampler_of
from ppod_train.objectives import OBJECTIVES
from ppod_train.run.checkpoint import remove_older
from ppod_train.run.exclusive import remove_leftovers
from ppod_train.run.model_defaults import explain_sensitivity
from ppod_train.run.trackers import Tracker, open_tracker
from ppod_train.run.usage import own_call
from ppod_train.settings import TrainSettings
from ppod_train.step.drift import Drift
from ppod_train.step.metrics import StepMetrics
from ppod_train.step.train_step import TrainState


def evaluation_folder(out: Path, step: int) -> Path:
    """Return the folder of the evaluation after `step` optimizer steps."""
    return out / "evals" / f"step-{step:06d}"


def keep_evaluation(out: Path, step: int, result: EvalResult) -> None:
    """Add an evaluation to the log of a run, and write its folder last: a complete one is not repeated."""
    log_evaluation(out, "step", step, result)
    write_evaluation(evaluation_folder(out, step), result)


def identity_of(state: TrainState) -> dict[str, Any]:
    """Return the identity that a resume must match, as JSON values: every setting, the data and the reference."""
    settings = asdict(state.settings)
    prompts = settings["eval_prompts"]
    return {
        **settings,
        "eval_prompts": None if prompts is None else list(prompts),
        "data_fingerprint": state.data.fingerprint,
        "reference_fingerprint": state.model.fingerprint,
        "start_fingerprint": state.start_fingerprint,
        "scorer": state.scorer,
    }


def write_run_record(
    out: Path,
    state: TrainState,
    *,
    source: DataSource,
    drift: Drift,
    judge: Judge | None,
    start: Path | None = None,
) -> None:
    """Write run.json, and remove the summary of an earlier run in the folder.

    Args:
        judge: the reward that evaluates the policy, otherwise the data's reward; None if unknown.
        start: the policy that training started from; None for the reference.
    """
    settings, data = state.settings, state.data
    record = {
        "settings": asdict(settings),
        "identity": identity_of(state),
        "datasets": [str(root) for root in source.roots],
        "targets": source.target_table(OBJECTIVES[settings.objective]),
        "model": state.model.name,
        "start": None if start is None else str(start.resolve()),
        "reward": state.scorer,
        "judge": judge.to_json() if judge else None,
        "generation": {
            **generation_of(data.spec),
            "revision": state.model.revision,
            "variant": state.model.variant,
        },
        "own_call": own_call(state.model, data.spec),
        "prompts": list(data.prompts),
        "num_pairs": len(data.chosen),
        "outside_band_at_start": data.outside_band(
            settings.clip, state.step_weights, start=state.start_fingerprint
        ),
        "num_trajectories": len(data.rows),
        "num_repeated": data.num_repeated,
        "num_repeated_pairs": data.num_repeated_pairs,
        "num_trained_steps": len(data.steps),
        "num_trained_weights": sum(parameter.numel() for parameter in state.parameters.values()),
        "paper_eta": settings.dpo_beta / math.prod(data.spec.latent_shape),
        "largest_possible_logit": largest_possible_logit(settings, len(data.steps)),
        "graph_bytes_per_evaluation": state.graph_bytes,
        "defaults": state.defaults,
        "sensitivity": explain_sensitivity(settings, data.spec),
        "drift": asdict(drift),
        "environment": environment(),
    }
    write_json(out / "run.json", record)
    remove_file(out / "summary.json")


def extend_run_record(out: Path, state: TrainState) -> None:
    """Record the settings of a resumed run, which may have more steps, and remove its earlier summary."""
    record = read_object(out / "run.json")
    changed = {
        "settings": asdict(state.settings),
        "identity": identity_of(state),
        "own_call": own_call(state.model, state.data.spec),
    }
    if any(record.get(name) != value for name, value in changed.items()):
        write_json(out / "run.json", record | changed)
    remove_file(out / "summary.json")


def generation_of(spec: GenerationSpec) -> dict[str, Any]:
    """Return the sampler settings of a spec, with which the policy's images are sampled as in training."""
    names = ("revision", "variant", "height", "width", "compute_dtype", "is_flow_matching")
    return {name: getattr(spec, name) for name in names} | sampler_of(spec)


def largest_possible_logit(settings: TrainSettings, num_steps: int) -> float | None:
    """Return 2·dpo_beta·T·log_ratio_clip, the bound of a pair's logit; None if the clip sets no such bound.

    There is no bound without a clip, in a pessimistic mode, with the clip around another policy, or for a loss that
    is not of the sum over steps.
    """
    of_the_sum = "clip_mode" in OBJECTIVES[settings.objective].reads
    if not of_the_sum or (settings.clip_mode, settings.clip_anchor) != ("paper", "reference"):
        return None
    logit = 2 * settings.dpo_beta * num_steps * settings.clip
    return logit if math.isfinite(logit) else None


class MetricsLog:
    """Writer of metrics.jsonl and of the run's tracker."""

    def __init__(self, lines: TextIO, tracker: Tracker | None) -> None:
        self._lines, self._tracker = lines, tracker

    @classmethod
    @contextmanager
    def open(cls, out: Path, settings: TrainSettings, *, first_step: int) -> Iterator["MetricsLog"]:
        """Open the log of a run until the block ends; a run from step 0 also writes its settings."""
        with (
            os.fdopen(open_in_place(out / "metrics.jsonl"), "a", encoding="utf-8") as lines,
            open_tracker(settings.report_to, out, None if first_step else asdict(settings)) as tracker,
        ):
            yield cls(lines, tracker)

    def add(self, metrics: StepMetrics) -> None:
        """Write the metrics of a step to both."""
        self._lines.write(json.dumps(metrics.to_json()) + "\n")
        self._lines.flush()
        if self._tracker is not None:
            self._tracker.log(metrics.scalars(), metrics.step)

    def add_evaluation(self, step: int, result: EvalResult) -> None:
        """Write an evaluation to the tracker."""
        if self._tracker is not None:
            self._tracker.log_evaluation(step, result)

    def sync(self) -> None:
        """Flush the metrics to disk, because a checkpoint marks them as complete."""
        os.fsync(self._lines.fileno())


def forget_after(out: Path, step: int) -> None:
    """Create the folder and remove metrics and evaluations after `step`, which a resume computes again.

    The partial files of a killed process are removed too.
    """
    make_folder(out)
    remove_leftovers(out)
    remove_older(out / "checkpoints")
    metrics = out / "metrics.jsonl"
    if metrics.exists():
        with open_file(metrics) as file:
            lines = file.read().decode(errors="replace").splitlines()
        kept = [line for line in lines if _line_step(line) <= step]
        atomic_write(metrics, "".join(line + "\n" for line in kept).encode())
    forget_evaluations(out, "step", step)
    for folder in (out / "evals").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            remove_folder(folder)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    atomic_write(path, (json.dumps(value, indent=1) + "\n").encode())


def _line_step(line: str) -> float:
    """Return the step of a metrics line; infinity for a line that a kill truncated."""
    try:
        return int(parse_json(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf
