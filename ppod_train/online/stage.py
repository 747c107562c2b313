"""One stage of online training: generate, score, pair, train, evaluate. Every phase is resumable."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel, resized
from ppod_data.errors import ConfigError, NothingToLearnError
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.generate import generate, select_shards
from ppod_data.generation.log_probs import compute_log_probs, steps_of
from ppod_data.inspect.card import write_card
from ppod_data.pairs.rank import rank
from ppod_data.rewards.usage import usage_of
from ppod_data.scoring.score import score
from ppod_data.storage.folders import remove_folder
from ppod_data.storage.json_reader import read_object
from ppod_data.support.noise import generator
from ppod_data.support.progress import SILENT
from ppod_train.data.steps import reference_steps
from ppod_train.data.training_data import DataSource
from ppod_train.evaluation.evaluate import evaluate
from ppod_train.evaluation.files import read_evaluation, write_evaluation
from ppod_train.evaluation.log import log_evaluation
from ppod_train.evaluation.metrics import EvalResult
from ppod_train.evaluation.settings import EvalSettings, sampler_of
from ppod_train.evaluation.usage import usage_since
from ppod_train.objectives import OBJECTIVES
from ppod_train.online.inputs import OnlineRun
from ppod_train.online.records import StageRecord, stage_line
from ppod_train.online.window import stage_window
from ppod_train.run.prepare import TrainingPart
from ppod_train.run.run_folder import write_json
from ppod_train.run.trackers import open_tracker
from ppod_train.run.train import train_offline
from ppod_train.run.words import evaluation_line
from ppod_train.settings import step_range

REFERENCE = "reference"
"""Name under log_probs/ of the pretrained reference's table in the data sets of later stages."""


def run_stage(run: OnlineRun, stage: int) -> StageRecord:
    """Run the missing phases of a stage.

    Raises:
        NothingToLearnError: in the first stage only, if the rewards are equal within each prompt.
    """
    record_path = run.folder(stage) / "stage.json"
    if record_path.exists():
        run.progress.say(f"online: stage {stage} of {run.settings.num_stages} was finished before")
        return StageRecord(**read_object(record_path))
    seconds: dict[str, float] = {}
    data = run.folder(stage) / "data"
    with _timed(seconds, "generate"):
        _generate(run, stage, data)
    dataset = Dataset.open(data)
    with _timed(seconds, "score"):
        _score(run, stage, dataset)
    steps, num_judged = 0, 0
    try:
        with _timed(seconds, "pair"):
            has_pairs = _pair(run, stage, dataset)
        with _timed(seconds, "log_probs"):
            if stage > 1 and has_pairs:
                _reference_log_probs(run, stage, dataset)
        with _timed(seconds, "train"):
            steps = _train(run, stage)
    except NothingToLearnError:
        if stage == 1:
            raise
    run.workers.on_main(lambda: write_card(data))
    if steps and run.settings.eval_images_per_prompt:
        with _timed(seconds, "evaluate"):
            num_judged = stage_evaluation(run, stage).overall.num_images
    scores = np.array(dataset.scores(run.reward.name)["score"].to_pylist(), dtype=np.float64)
    record = StageRecord(
        stage=stage,
        reward_queries=len(scores) + num_judged,
        data_reward_mean=float(np.nanmean(scores)),
        outside_band_at_start=_outside_band(run, stage) if steps else None,
        steps=steps,
        seconds=seconds,
    )
    run.workers.on_main(lambda: write_json(record_path, asdict(record)))
    run.progress.say(stage_line(record, run.settings.num_stages))
    return record


def _outside_band(run: OnlineRun, stage: int) -> float:
    record = read_object(run.folder(stage) / "run" / "run.json")
    return float(record["outside_band_at_start"])


def _generate(run: OnlineRun, stage: int, data: Path) -> None:
    progress = run.phase(stage, "generate")
    policy = run.load(run.policy(stage - 1))
    spec = stage_spec(run, policy, stage)
    shards = select_shards(spec, None, run.workers.rank, run.workers.world_size)
    generate(data, spec, policy, shards=shards, progress=progress)
    run.workers.wait()


def stage_spec(run: OnlineRun, policy: DiffusionModel, stage: int) -> GenerationSpec:
    """Return the spec of a stage's data set: its window of noisy steps, and all prompts or the stage's own draw.

    Raises:
        ConfigError: more prompts per stage than there are, or a window that cannot move.
    """
    spec = run.build_spec(policy, stage=stage)
    if stride := run.settings.window_stride:
        spec = replace(spec, noisy_steps=stage_window(spec, stage, stride))
    count = run.settings.prompts_per_stage
    if count is None:
        return spec
    if count > len(spec.prompts):
        raise ConfigError(
            f"prompts_per_stage {count} is more than the {len(spec.prompts)} prompts: lower it, or leave it out"
        )
    drawn = generator(spec.seed, "stage-prompts", stage).choice(len(spec.prompts), count, replace=False)
    return replace(spec, prompts=tuple(spec.prompts[i] for i in sorted(drawn)))


def _score(run: OnlineRun, stage: int, dataset: Dataset) -> None:
    """Score every shard in its own process; then the main process scores missing shards and reports errors."""
    rank, world_size = run.workers.rank, run.workers.world_size
    name, progress = run.reward.name, run.phase(stage, "score")
    earlier = usage_of(run.reward)
    if world_size > 1:
        # A process without any scorable image raises ConfigError; the call below raises it if no process has one.
        with suppress(ConfigError):
            score(dataset, run.reward, name=name, rank=rank, world_size=world_size, progress=progress)
        run.workers.wait()
    rest = progress if world_size == 1 else SILENT
    run.workers.on_main(lambda: score(dataset, run.reward, name=name, progress=rest))
    if (usage := usage_since(earlier, usage_of(run.reward), run.workers)) is not None:
        run.progress.say(f"online: stage {stage}: scored by {name}: {usage}")


def _pair(run: OnlineRun, stage: int, dataset: Dataset) -> bool:
    """Pair the stage's images for an objective on pairs; returns false if the reward tells no two of them apart enough.

    Raises:
        NothingToLearnError: there are no earlier pairs to train on either.
    """

    def pair() -> None:
        settings = run.settings
        if OBJECTIVES[settings.train.objective].on_pairs:
            rank(
                dataset,
                reward=run.reward.name,
                name=run.reward.name,
                strategy=settings.strategy,
                num_pairs_per_prompt=settings.num_pairs_per_prompt,
                min_margin=settings.min_margin,
                label_temperature=settings.label_temperature,
                seed=dataset.spec.seed,
            )

    try:
        run.workers.on_main(pair)
    except NothingToLearnError:
        if not _training_data(run, run.settings.replayed(stage)):
            raise
        run.progress.say(
            f"online: stage {stage}: the reward tells no two of its images apart enough; it trains on earlier stages' "
            "pairs"
        )
        return False
    return True


def _reference_log_probs(run: OnlineRun, stage: int, dataset: Dataset) -> None:
    """Compute the pretrained reference's log-probabilities of the stage's chains, in the trainer's numerics."""
    progress = run.phase(stage, "log-probs")
    train = run.settings.train
    steps = reference_steps(dataset.spec, OBJECTIVES[train.objective], step_range(train.trained_steps))
    if steps is None and train.trained_steps is not None:
        run.workers.on_main(lambda: _forget_some_steps(dataset))
    compute_log_probs(
        dataset,
        run.load(run.reference),
        name=REFERENCE,
        batch_size=train.batch_size,
        rank=run.workers.rank,
        world_size=run.workers.world_size,
        steps=steps,
        progress=progress,
    )
    run.workers.wait()


def _forget_some_steps(dataset: Dataset) -> None:
    """Remove a table of some steps alone, which an earlier version computed and could not train on."""
    if REFERENCE in dataset.log_prob_names() and steps_of(dataset.log_probs(REFERENCE)) is not None:
        assert isinstance(dataset.root, Path)
        remove_folder(dataset.root / "log_probs" / REFERENCE)


def _train(run: OnlineRun, stage: int) -> int:
    progress = run.phase(stage, "train")
    roots = _training_data(run, (*run.settings.replayed(stage), stage))
    summary = train_offline(
        DataSource(roots=roots, pairs=run.reward.name, scores=run.reward.name),
        run.folder(stage) / "run",
        run.settings.train,
        model=run.load(run.reference),
        reward=None,
        start=run.policy_folder(stage - 1) if stage > 1 else None,
        part=TrainingPart(
            previous=run.folder(stage - 1) / "run" if stage > 1 else None,
            first_step=(stage - 1) * run.settings.train.num_train_steps,
            num_steps=run.settings.num_stages * run.settings.train.num_train_steps,
        ),
        progress=progress,
        workers=run.workers,
    )
    return summary.steps


def _training_data(run: OnlineRun, stages: Iterable[int]) -> list[Path]:
    """Return the data sets of some stages, without those that have no pairs for an objective on pairs."""
    roots = [run.folder(stage) / "data" for stage in stages]
    if not OBJECTIVES[run.settings.train.objective].on_pairs:
        return roots
    return [root for root in roots if run.reward.name in Dataset.open(root).pair_names()]


def stage_evaluation(run: OnlineRun, stage: int) -> EvalResult:
    """Return the evaluation of the policy after a stage on validation noise; evaluate it if it is missing."""
    folder = run.out / "evals" / f"stage-{stage:02d}"
    if (folder / "eval.json").exists():
        return read_evaluation(folder)
    progress = run.phase(stage, "evaluate")
    policy = run.load(run.policy(stage))
    spec = run.build_spec(policy, stage=0)
    prompts = run.settings.eval_prompts or spec.prompts
    result = evaluate(
        resized(policy, spec.height, spec.width),
        run.reward,
        EvalSettings(
            prompts=prompts,
            num_images_per_prompt=run.settings.eval_images_per_prompt,
            seed=run.settings.train.seed,
            batch_size=spec.batch_size,
            validation=True,
            **sampler_of(spec),
        ),
        baseline=stage_evaluation(run, 0) if stage else None,
        check_reward=run.check,
        progress=progress,
        workers=run.workers,
    )
    run.workers.on_main(lambda: _write_evaluation(run, stage, folder, result))
    when = f"after stage {stage}" if stage else "before"
    run.progress.say(f"online: {when}: {evaluation_line(result)}")
    return result


def _write_evaluation(run: OnlineRun, stage: int, folder: Path, result: EvalResult) -> None:
    log_evaluation(run.out, "stage", stage, result)
    write_evaluation(folder, result)  # last, because a complete evaluation is not repeated
    with open_tracker(run.settings.train.report_to, run.out) as tracker:
        if tracker is not None:
            tracker.log_evaluation(stage, result)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[phase] = time.monotonic() - start
