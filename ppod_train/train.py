"""Offline training: optimizer steps on recorded pairs, evaluated on validation noise, the best policy kept.

A RUN folder:
    run.json                 settings, data, identities, drift; written at the start
    metrics.jsonl            one line an optimizer step (`StepMetrics`)
    tensorboard/             the same figures
    evals/step-000020/       an evaluation on validation noise (`ppod_train.eval_files`); step-000000 is the reference
    checkpoints/step-000020/ the newest two, to resume from
    policy/                  the best policy so far, for plain diffusers
    summary.json             written at the end
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ppod_data.diffusion.model import DiffusionModel
from ppod_data.environment import environment
from ppod_data.errors import ConfigError
from ppod_data.files import atomic_write
from ppod_data.generate import prepare_sampler
from ppod_data.rewards import RewardModel
from ppod_train.batches import PreferenceData, open_preferences
from ppod_train.checkpoint import (
    check_same_run,
    latest_checkpoint,
    load_checkpoint,
    load_state,
    save_checkpoint,
)
from ppod_train.drift import Drift, check_drift, measure_drift
from ppod_train.eval_files import write_evaluation
from ppod_train.evaluate import evaluate
from ppod_train.figures import EvalResult, EvalSettings
from ppod_train.metrics import StepMetrics
from ppod_train.optimize import Trainee, graph_bytes_per_evaluation, train_step
from ppod_train.policy import save_policy, trainable_parameters
from ppod_train.settings import TrainSettings


@dataclass
class Progress:
    """Where a run stands: all that a resume needs beside weights and optimizer."""

    step: int = 0
    best_step: int = 0
    best_reward: float = -math.inf
    evals_since_best: int = 0
    reward_queries: int = 0
    """Images scored for validation so far: they count as queries, like those of the data set."""
    in_band_share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """How a run ended; written to summary.json."""

    steps: int
    stopped_early: bool
    best_step: int
    reward_before: float | None
    """Mean validation reward of the reference; None without evaluations."""
    reward_best: float | None
    reward_queries: int
    policy: str
    """The folder of the kept policy, relative to the run."""


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """How a run tells its caller what happens."""

    on_start: Callable[[Drift, int], None] = lambda drift, step: None
    """After the drift check, with the step that the run starts from."""
    on_step: Callable[[StepMetrics], None] = lambda metrics: None
    on_eval: Callable[[int, EvalResult], None] = lambda step, result: None


def train_offline(
    roots: Sequence[Path],
    pairs: str,
    out: Path,
    settings: TrainSettings,
    *,
    model: DiffusionModel,
    reward: RewardModel | None,
    reference_log_probs: str | None = None,
    callbacks: Callbacks | None = None,
) -> TrainSummary:
    """Train `model` in place on the pair table `pairs` of the data sets `roots`; run again, it goes on where it was.

    Args:
        model: the reference, freshly loaded: the policy that made the data.
        reward: scores validation images; needed unless settings.eval_every is 0.
        reference_log_probs: the name of log-probabilities computed by `ppod-data log-probs`, in place of the
            recorded ones.

    Raises:
        ConfigError: settings, data or model that contradict each other or the run in `out`.
        DriftError: the trainer does not compute the log-probabilities that were recorded.
        NonFiniteError: the loss or gradient is NaN or infinite.
    """
    settings.validate()
    if settings.eval_every and reward is None:
        raise ConfigError("evaluation while training needs a reward: give one, or --eval-every 0")
    data = open_preferences(
        roots, pairs, policy_fingerprint=model.fingerprint, reference_log_probs=reference_log_probs
    )
    trainee = _trainee(data, model, settings)
    drift = measure_drift(
        data, trainee.sampler, num_trajectories=settings.drift_samples, batch_size=trainee.batch_size
    )
    check_drift(drift, settings.log_ratio_clip)

    out.mkdir(parents=True, exist_ok=True)
    identity = _identity(settings, data, model)
    progress = _resume(out, trainee, identity)
    if progress.step == 0:
        _write_json(out / "run.json", _run_record(settings, identity, data, roots, pairs, trainee, drift))
    callbacks = callbacks or Callbacks()
    callbacks.on_start(drift, progress.step)
    _loop(out, trainee, progress, identity, reward, callbacks)
    return _finish(out, settings, progress)


def _trainee(data: PreferenceData, model: DiffusionModel, settings: TrainSettings) -> Trainee:
    from dataclasses import replace

    parameters = trainable_parameters(model, lora_rank=settings.lora_rank, seed=settings.seed)
    sampler = prepare_sampler(replace(data.spec, prompts=data.prompts), model)
    return Trainee(
        data=data,
        sampler=sampler,
        parameters=parameters,
        optimizer=torch.optim.AdamW(
            parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        ),
        settings=settings,
        batch_size=settings.batch_size or data.spec.batch_size,
        graph_bytes=graph_bytes_per_evaluation(sampler, data),
    )


def _loop(
    out: Path,
    trainee: Trainee,
    progress: Progress,
    identity: dict[str, Any],
    reward: RewardModel | None,
    callbacks: Callbacks,
) -> None:
    settings = trainee.settings
    tracker = _tracker(out, settings)
    if progress.step == 0:
        _evaluate_if_due(out, trainee, progress, reward, callbacks)
    with (out / "metrics.jsonl").open("a", encoding="utf-8") as lines:
        while progress.step < settings.num_train_steps and not _stopped_early(settings, progress):
            metrics = train_step(trainee, step=progress.step, in_band_share=progress.in_band_share)
            progress.step = metrics.step
            progress.in_band_share = metrics.in_band_share
            lines.write(json.dumps(metrics.to_json()) + "\n")
            lines.flush()
            tracker.log(metrics.scalars(), step=metrics.step)
            callbacks.on_step(metrics)
            last = progress.step == settings.num_train_steps
            if settings.eval_every and (last or progress.step % settings.eval_every == 0):
                _evaluate_if_due(out, trainee, progress, reward, callbacks)
            if last or progress.step % settings.checkpoint_every == 0 or _stopped_early(settings, progress):
                save_checkpoint(
                    out / "checkpoints",
                    step=progress.step,
                    parameters=trainee.parameters,
                    optimizer=trainee.optimizer,
                    state={"progress": asdict(progress), "identity": identity},
                )
    if not settings.eval_every:
        progress.best_step = progress.step
        save_policy(trainee.sampler.model, out / "policy")
    tracker.end_training()


def _evaluate_if_due(
    out: Path, trainee: Trainee, progress: Progress, reward: RewardModel | None, callbacks: Callbacks
) -> None:
    """Score images of the current policy on validation noise; keep the policy when none was better."""
    settings, spec = trainee.settings, trainee.data.spec
    if not settings.eval_every:
        return
    assert reward is not None
    result = evaluate(
        trainee.sampler.model,
        reward,
        EvalSettings(
            prompts=trainee.data.prompts,
            num_images_per_prompt=settings.eval_images_per_prompt,
            seed=settings.seed,
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=spec.guidance_scale,
            ddim_eta=spec.ddim_eta,
            negative_prompt=spec.negative_prompt,
            validation=True,
        ),
    )
    write_evaluation(out / "evals" / f"step-{progress.step:06d}", result)
    progress.reward_queries += result.overall.num_images
    if result.overall.reward_mean > progress.best_reward:
        progress.best_reward, progress.best_step = result.overall.reward_mean, progress.step
        progress.evals_since_best = 0
        save_policy(trainee.sampler.model, out / "policy")
    else:
        progress.evals_since_best += 1
    callbacks.on_eval(progress.step, result)


def _stopped_early(settings: TrainSettings, progress: Progress) -> bool:
    return bool(settings.patience) and progress.evals_since_best >= settings.patience


def _resume(out: Path, trainee: Trainee, identity: dict[str, Any]) -> Progress:
    """Go on from the newest checkpoint, or from the start; what came after the checkpoint is made again."""
    checkpoint = latest_checkpoint(out / "checkpoints")
    if checkpoint is None:
        if (out / "run.json").exists():
            check_same_run(json.loads((out / "run.json").read_text()), identity)
        progress = Progress()
    else:
        state = load_state(checkpoint)
        check_same_run(state, identity)
        load_checkpoint(checkpoint, parameters=trainee.parameters, optimizer=trainee.optimizer)
        progress = Progress(**state["progress"])
    _forget_after(out, progress.step)
    return progress


def _forget_after(out: Path, step: int) -> None:
    """Drop metrics and evaluations of steps later than the checkpoint."""
    metrics = out / "metrics.jsonl"
    if metrics.exists():
        kept = [line for line in metrics.read_text().splitlines() if _line_step(line) <= step]
        atomic_write(metrics, "".join(line + "\n" for line in kept).encode())
    for folder in (out / "evals").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)


def _line_step(line: str) -> float:
    """The step of a metrics line; infinity for one that a kill cut short."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf


def _finish(out: Path, settings: TrainSettings, progress: Progress) -> TrainSummary:
    before = None
    if settings.eval_every:
        before = json.loads((out / "evals" / "step-000000" / "eval.json").read_text())["overall"][
            "reward_mean"
        ]
    summary = TrainSummary(
        steps=progress.step,
        stopped_early=progress.step < settings.num_train_steps,
        best_step=progress.best_step,
        reward_before=before,
        reward_best=progress.best_reward if settings.eval_every else None,
        reward_queries=progress.reward_queries,
        policy="policy",
    )
    _write_json(out / "summary.json", asdict(summary))
    return summary


def _identity(settings: TrainSettings, data: PreferenceData, model: DiffusionModel) -> dict[str, Any]:
    """What a resumed run must share with the run it goes on: every choice, the data, the reference."""
    return {
        **json.loads(json.dumps(asdict(settings))),
        "data_fingerprint": data.fingerprint,
        "reference_fingerprint": model.fingerprint,
    }


def _run_record(
    settings: TrainSettings,
    identity: dict[str, Any],
    data: PreferenceData,
    roots: Sequence[Path],
    pairs: str,
    trainee: Trainee,
    drift: Drift,
) -> dict[str, Any]:
    dimensions = math.prod(data.spec.latent_shape)
    return {
        "settings": asdict(settings),
        "identity": identity,
        "datasets": [str(root) for root in roots],
        "pairs": pairs,
        "model": data.spec.model,
        "prompts": list(data.prompts),
        "num_pairs": len(data.chosen),
        "num_trajectories": len(data.rows),
        "num_trained_steps": len(data.steps),
        "num_trained_weights": sum(parameter.numel() for parameter in trainee.parameters.values()),
        "paper_eta": settings.dpo_beta / dimensions,
        "largest_possible_logit": largest_possible_logit(settings, len(data.steps)),
        "graph_bytes_per_evaluation": trainee.graph_bytes,
        "drift": asdict(drift),
        "environment": environment(),
    }


def largest_possible_logit(settings: TrainSettings, num_steps: int) -> float | None:
    """2·dpo_beta·T·log_ratio_clip, which no pair's logit can pass; None without a clip."""
    logit = 2 * settings.dpo_beta * num_steps * settings.log_ratio_clip
    return logit if math.isfinite(logit) else None


def _tracker(out: Path, settings: TrainSettings) -> Any:
    from accelerate import Accelerator

    accelerator = Accelerator(log_with="tensorboard", project_dir=out, cpu=not torch.cuda.is_available())
    accelerator.init_trackers(
        "tensorboard", config={k: v for k, v in asdict(settings).items() if v is not None}
    )
    return accelerator


def _write_json(path: Path, value: dict[str, Any]) -> None:
    atomic_write(path, (json.dumps(value, indent=1) + "\n").encode())
