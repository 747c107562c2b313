"""Online training (Algorithm 1): every stage samples a data set from the newest policy and trains on all so far.

OUT/online.json            settings and identities, written at every start (`ppod_train.online.identity`)
OUT/stage-01/data/         data set of the stage
OUT/stage-01/run/          training run of the stage (`ppod_train.run.run_folder`)
OUT/stage-01/stage.json    record of the stage; the stage is complete if this file exists
OUT/evals/stage-01/        evaluation of the policy after the stage on validation noise; stage-00 is the reference
OUT/policy/                the best stage's policy, or the last stage's policy without evaluations
OUT/summary.json           written at the end

Every phase of a stage is resumable. A killed run that is run again produces the same policy.
"""

import shutil
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError
from ppod_data.format.spec import GenerationSpec
from ppod_data.rewards import RewardModel
from ppod_data.storage.folder_kinds import ONLINE, check_out
from ppod_data.storage.folders import new_folder
from ppod_data.storage.real_folders import settled
from ppod_data.support.progress import SILENT, Progress
from ppod_train.distributed import SINGLE_PROCESS, Workers
from ppod_train.evaluation.check import load_judges
from ppod_train.evaluation.exploitation import find
from ppod_train.evaluation.files import read_evaluation
from ppod_train.online.identity import write_record
from ppod_train.online.inputs import OnlineRun
from ppod_train.online.records import BuildSpec, LoadPolicy, OnlineSummary, StageRecord
from ppod_train.online.settings import OnlineSettings
from ppod_train.online.stage import run_stage, stage_evaluation, stage_spec
from ppod_train.report.runs import read_run
from ppod_train.report.verdict import verdict
from ppod_train.run.model_card import write_model_card
from ppod_train.run.run_folder import write_json
from ppod_train.run.start_checks import check_start


def train_online(
    out: Path,
    settings: OnlineSettings,
    *,
    reference: ModelSource,
    build_spec: BuildSpec,
    load: LoadPolicy,
    reward: RewardModel,
    progress: Progress = SILENT,
    workers: Workers = SINGLE_PROCESS,
) -> OnlineSummary:
    """Run every stage that is not complete.

    A finished run with a constant learning rate may be extended by more stages. The run ends early if the rewards of a
    stage, and of the stages that it replays, are equal within each prompt, so that there is nothing left to learn.

    Args:
        reference: the pretrained model, a whole pipeline; the KL anchor of all stages.
        build_spec: returns the spec of a stage's data set for the policy that samples it.
        load: loads a new copy of a policy.
        progress: counts the units of each phase, and shows its name; in the main process only.
        workers: the processes that share every phase. All call this function; the main process writes.

    Raises:
        ConfigError: settings that contradict each other or the run in `out`.
        NothingToLearnError: the rewards of the reference's images are equal within each prompt.

    Errors of `generate`, `score`, `rank`, `compute_log_probs`, `train_offline` and `evaluate` are passed on.
    """
    out = settled(out)
    settings.validate()
    check_out(out, ONLINE)
    if reference.adapter is not None:
        raise ConfigError("online training starts from a whole pipeline: leave the adapter out")
    spec = _first_spec(load(reference), build_spec, settings, workers)
    run = OnlineRun(
        out=out,
        settings=settings,
        reference=reference,
        build_spec=build_spec,
        load=load,
        reward=reward,
        check=_check_scorer(reward, settings, spec, workers.device),
        progress=progress if workers.is_main else SILENT,
        workers=workers,
    )
    if settings.prompts_per_stage is not None or settings.window_stride:
        stage_spec(run, load(reference), 1)  # raises before the run writes a file
    with ExitStack() as folder:
        keep_calls = write_record(run, spec, folder)
        if settings.eval_images_per_prompt:
            stage_evaluation(run, 0)
        for keep in keep_calls:
            keep()
        records: list[StageRecord] = []
        for stage in range(1, settings.num_stages + 1):
            records.append(run_stage(run, stage))
            if records[-1].steps == 0 or _must_stop(run, stage):
                break
        return _finish(run, records)


def _first_spec(
    model: DiffusionModel, build_spec: BuildSpec, settings: OnlineSettings, workers: Workers
) -> GenerationSpec:
    """Return the spec of the first stage's data. Raises ConfigError for what training on these data would refuse."""
    spec = build_spec(model, stage=1)
    num_steps = settings.num_stages * settings.train.num_train_steps
    check_start(settings.train, spec, num_steps=num_steps, sharded=workers.sharded)
    return spec


def _check_scorer(
    reward: RewardModel, settings: OnlineSettings, spec: GenerationSpec, device: str
) -> RewardModel | None:
    """Load the check scorer of the evaluations; None for none. Both scorers check the prompts."""
    judged = reward if settings.eval_images_per_prompt else None
    return load_judges(judged, settings.check_reward, settings.eval_prompts or spec.prompts, device).check


def _must_stop(run: OnlineRun, stage: int) -> bool:
    """Return true if the run stops when its policy exploits the reward, and the stage's evaluation shows that."""
    if run.settings.stop_when != "exploited" or not run.settings.eval_images_per_prompt:
        return False
    return find(stage_evaluation(run, stage)) is not None


def _finish(run: OnlineRun, records: list[StageRecord]) -> OnlineSummary:
    """Keep the policy of the stage with the best mean reward, or of the last stage without evaluations.

    A stage at which the run stopped because its policy exploits the reward is not kept, unless it is the only one.
    """
    last = sum(record.steps > 0 for record in records)
    rewards: list[float] = []
    if run.settings.eval_images_per_prompt:
        rewards = [stage_evaluation(run, stage).reward for stage in range(last + 1)]
    candidates = rewards[1:]
    if len(candidates) > 1 and _must_stop(run, last):
        candidates = candidates[:-1]
    best = 1 + int(np.argmax(candidates)) if candidates else last
    before = len(read_evaluation(run.out / "evals" / "stage-00").measurements) if rewards else 0
    summary = OnlineSummary(
        stages=last,
        converged=records[-1].steps == 0,
        best_stage=best,
        reward_before=rewards[0] if rewards else None,
        reward_best=rewards[best] if rewards else None,
        reward_queries=sum(record.reward_queries for record in records)
        + before * run.settings.eval_images_per_prompt,
        improved=rewards[best] > rewards[0] if rewards else None,
        verdict="",
        policy="policy",
    )
    summary = replace(summary, verdict=verdict(read_run(run.out)))
    run.workers.on_main(lambda: _write_end(run, summary))
    return summary


def _write_end(run: OnlineRun, summary: OnlineSummary) -> None:
    with new_folder(run.out / "policy") as temporary:
        shutil.copytree(run.policy_folder(summary.best_stage), temporary, symlinks=True, dirs_exist_ok=True)
    write_json(run.out / "summary.json", asdict(summary))
    write_model_card(run.out)
