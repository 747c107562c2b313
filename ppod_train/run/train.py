"""Training on recorded trajectories: optimizer steps, evaluation on validation noise, and the best policy.

The files of a run are described in `ppod_train.run.run_folder`.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.errors import ConfigError
from ppod_data.inspect.judge import Judge, judge_of_reward, judge_of_tables
from ppod_data.rewards import RewardModel
from ppod_data.storage.folder_kinds import OFFLINE, check_out
from ppod_data.storage.json_reader import read_object
from ppod_data.storage.real_folders import settled
from ppod_data.support.progress import SILENT, Phase, Progress
from ppod_data.support.runtime import one_thread
from ppod_train.data.batches import trained_prompts
from ppod_train.data.training_data import DataSource
from ppod_train.distributed import SINGLE_PROCESS, Workers
from ppod_train.evaluation.check import Judges, load_judges
from ppod_train.evaluation.evaluate import evaluate
from ppod_train.evaluation.exploitation import find
from ppod_train.evaluation.files import read_evaluation
from ppod_train.evaluation.settings import EvalSettings, sampler_of
from ppod_train.objectives import OBJECTIVES
from ppod_train.policy.fsdp import gathered
from ppod_train.policy.policy import policy_rank, policy_weights
from ppod_train.report.runs import read_run
from ppod_train.report.verdict import verdict
from ppod_train.run.checkpoint import latest_checkpoint, load_optimizer
from ppod_train.run.exclusive import only_run
from ppod_train.run.model_card import write_model_card
from ppod_train.run.prepare import TrainingPart, prepare
from ppod_train.run.resume import (
    Counters,
    check_same_table,
    is_finished,
    resume,
    stopped_early,
    store_checkpoint,
    store_policy,
)
from ppod_train.run.run_folder import (
    MetricsLog,
    evaluation_folder,
    extend_run_record,
    keep_evaluation,
    write_json,
    write_run_record,
)
from ppod_train.run.words import evaluation_line, started_lines
from ppod_train.settings import TrainSettings
from ppod_train.step.train_step import TrainState, train_step


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """Result of a run; written to summary.json."""

    steps: int
    stopped_early: bool
    best_step: int
    reward_before: float | None
    """Mean validation reward of the reference; None without evaluations."""
    reward_best: float | None
    reward_queries: int
    improved: bool | None
    """False if no evaluation beat the first one, so that the kept policy is the starting model; None without
    evaluations."""
    verdict: str
    """One sentence about the kept policy (`ppod_train.report.verdict`)."""
    policy: str
    """Folder of the kept policy, relative to the run."""


def train_offline(
    source: DataSource,
    out: Path,
    settings: TrainSettings,
    *,
    model: DiffusionModel,
    reward: RewardModel | None,
    start: Path | None = None,
    part: TrainingPart | None = None,
    progress: Progress = SILENT,
    workers: Workers = SINGLE_PROCESS,
) -> TrainSummary:
    """Train `model` in place on recorded data. A run that is called again resumes from its last checkpoint.

    Args:
        model: the reference, freshly loaded; the KL anchor of every objective.
        reward: scores validation images; required unless settings.eval_every is 0.
        start: folder of the policy to start from, as an earlier run wrote it; None starts from the reference.
        part: the longer training that the run is a part of, as the stages of an online run are; None for a whole one.
        progress: counts optimizer steps, and gets the evaluations in words; in the main process only.
        workers: the processes that train together. All call this function; a resumed run may have another number.

    Raises:
        ConfigError: settings, data or model that contradict each other or the run in `out`.
        DriftError: the trainer's log-probabilities differ from the recorded ones.
        NonFiniteError: the loss or gradient is NaN or infinite.
        WorkersError: another process ended, or computed different numbers.
    """
    out = settled(out)
    settings.validate()
    check_out(out, OFFLINE)
    if settings.lora_rank is None and start is not None:
        settings = replace(settings, lora_rank=policy_rank(start))
    if settings.eval_every and reward is None:
        raise ConfigError("evaluation during training needs a reward: give a reward, or --eval-every 0")
    with one_thread(model.device):  # exact replay and exact resume on any number of cores
        scorer = f"{reward.name} {reward.revision}" if reward else ""
        progress = progress if workers.is_main else SILENT
        progress.note(f"{'compiling, ' if settings.torch_compile else ''}replaying recorded steps")
        state, drift = prepare(source, model, settings, scorer, start, workers, part)
        judges = load_judges(
            reward if settings.eval_every else None, settings.check_reward, _eval_prompts(state), model.device
        )
        if part is not None and part.previous is not None:
            checkpoint = latest_checkpoint(part.previous / "checkpoints")
            if checkpoint is None:
                raise ConfigError(
                    f"{part.previous} has no checkpoint to take the optimizer's state from: run that stage again"
                )
            load_optimizer(checkpoint, parameters=state.parameters, optimizer=state.optimizer)
        with ExitStack() as folder:
            keep_calls: list[Callable[[], None]] = []
            workers.on_main(lambda: keep_calls.append(folder.enter_context(only_run(out))))
            check_same_table(out, source.target_table(OBJECTIVES[settings.objective]))
            counters = resume(out, state)
            _check_same_weights(state)
            if counters.step == 0:
                judge = _judge(source, state, reward)
                workers.on_main(
                    lambda: write_run_record(out, state, source=source, drift=drift, judge=judge, start=start)
                )
            elif not is_finished(settings, counters):
                workers.on_main(lambda: extend_run_record(out, state))
            if workers.is_main:
                for line in started_lines(read_object(out / "run.json"), drift, counters.step):
                    progress.say(line)
            _loop(out, state, counters, judges, progress, keep_calls)
            summary = _summary(out, settings, counters)
            workers.on_main(lambda: _finish(out, summary))
        return summary


def _judge(source: DataSource, state: TrainState, reward: RewardModel | None) -> Judge | None:
    """Return the reward that evaluates the policy; without a reward the data's reward, if known."""
    if reward is not None:
        return judge_of_reward(reward)
    folder, _, table = source.target_table(OBJECTIVES[state.settings.objective]).partition("/")
    try:
        return judge_of_tables(state.data.datasets, folder, table)
    except ConfigError:
        return None


def _loop(
    out: Path,
    state: TrainState,
    counters: Counters,
    judges: Judges,
    progress: Progress,
    keep_calls: Sequence[Callable[[], None]],
) -> None:
    """Train until the run is finished.

    Args:
        keep_calls: called after every step in the main process, because there are results to keep.
    """
    settings, workers = state.settings, state.workers
    with ExitStack() as files:
        log = None
        if workers.is_main and not is_finished(settings, counters):
            log = files.enter_context(MetricsLog.open(out, settings, first_step=counters.step))
        evaluate_first = settings.eval_every > 0 and counters.step == 0
        if evaluate_first and _evaluate(out, state, counters, judges, progress, log):
            store_policy(state, out)
        progress.start(settings.num_train_steps, "steps")
        progress.skip(counters.step)
        while not is_finished(settings, counters):
            metrics = train_step(
                state,
                step=counters.step,
                gradient_share=counters.gradient_share,
                scale_drops=counters.scale_drops,
            )
            counters.step = metrics.step
            for keep in keep_calls:
                keep()
            counters.gradient_share, counters.scale_drops = metrics.gradient_share, metrics.scale_drops
            if log is not None:
                log.add(metrics)
            progress.advance(1)
            progress.status(f"loss {metrics.loss:.4f}")
            last = counters.step == settings.num_train_steps
            due = last or counters.step % settings.checkpoint_every == 0
            best = not settings.eval_every  # without evaluations the newest policy is kept
            if settings.eval_every and (last or counters.step % settings.eval_every == 0):
                best = _evaluate(out, state, counters, judges, progress, log)
                due |= best or stopped_early(settings, counters)
            if due:
                _check_same_weights(state)
                if log is not None:
                    log.sync()
                store_checkpoint(out / "checkpoints", state, counters)
                if best:  # after its checkpoint, from which a resume stores it again
                    store_policy(state, out)
    if not settings.eval_every:
        counters.best_step = counters.step
        store_policy(state, out)


def _evaluate(
    out: Path,
    state: TrainState,
    counters: Counters,
    judges: Judges,
    progress: Progress,
    log: MetricsLog | None,
) -> bool:
    """Score images of the current policy on validation noise; return True if the policy is the best so far."""
    settings, spec, workers = state.settings, state.data.spec, state.workers
    assert judges.reward is not None
    baseline = read_evaluation(evaluation_folder(out, 0)) if counters.step and workers.is_main else None
    eval_settings = EvalSettings(
        prompts=_eval_prompts(state),
        batch_size=spec.batch_size,
        num_images_per_prompt=settings.eval_images_per_prompt,
        seed=settings.seed,
        validation=True,
        **sampler_of(spec),
    )
    model = state.model
    with (
        policy_weights(state.parameters, state.average),
        gathered(model.denoiser) if workers.sharded else nullcontext(),
    ):
        result = evaluate(
            model,
            judges.reward,
            eval_settings,
            baseline=baseline,
            check_reward=judges.check,
            progress=Phase(progress, f"evaluating step {counters.step}:"),
            workers=workers,
        )
    workers.on_main(lambda: keep_evaluation(out, counters.step, result))
    counters.reward_queries += result.overall.num_images
    found = torch.tensor(float(find(result) is not None))  # only the main process reads the baseline
    counters.exploited = bool(workers.sum(found))
    keep = not (counters.exploited and settings.stop_when == "exploited")
    best = keep and result.reward > counters.best_reward
    counters.evals_since_best = 0 if best else counters.evals_since_best + 1
    if best:
        counters.best_reward, counters.best_step = result.reward, counters.step
    if log is not None:
        log.add_evaluation(counters.step, result)
    progress.say(f"train: step {counters.step}: {evaluation_line(result)}")
    return best


def _eval_prompts(state: TrainState) -> tuple[str, ...]:
    return state.settings.eval_prompts or trained_prompts(state.data)


def _check_same_weights(state: TrainState) -> None:
    state.workers.check_same([*state.parameters.values(), *state.average.values()], "weights")


def _summary(out: Path, settings: TrainSettings, counters: Counters) -> TrainSummary:
    before = None
    if settings.eval_every:
        before = read_object(out / "evals" / "step-000000" / "eval.json")["overall"]["reward_mean"]
    return TrainSummary(
        steps=counters.step,
        stopped_early=counters.step < settings.num_train_steps,
        best_step=counters.best_step,
        reward_before=before,
        reward_best=counters.best_reward if settings.eval_every else None,
        reward_queries=counters.reward_queries,
        improved=counters.best_step > 0 if settings.eval_every else None,
        verdict=verdict(read_run(out)),
        policy="policy",
    )


def _finish(out: Path, summary: TrainSummary) -> None:
    write_json(out / "summary.json", asdict(summary))
    write_model_card(out)
