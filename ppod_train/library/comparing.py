"""`compare`: evaluate a policy and its baseline on the same seeds."""

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from ppod_data.diffusion.adapters.file import adapter_file
from ppod_data.diffusion.models.copies import with_adapter
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.source import DEFAULT_MODEL, ModelSource
from ppod_data.errors import ConfigError
from ppod_data.inspect.judge import load_judge
from ppod_data.rewards import RewardModel, check_reward_name, load_reward
from ppod_data.rewards.usual import usual_reward
from ppod_data.storage.folder_kinds import EVALUATION, check_out
from ppod_data.support.progress import SILENT, Progress
from ppod_train.evaluation.check import check_name
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.library.launch import launched
from ppod_train.library.policies import AnyModel, base_of, source_of
from ppod_train.library.training import device_for, note_cut_prompts
from ppod_train.run.compare import Comparison, run_evaluation
from ppod_train.run.run_record import RunRecord

NONE = "none"
"""Baseline or check reward of an evaluation without one."""
_OF_THE_RUN = (
    "height",
    "width",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "guidance_mode",
    "ddim_eta",
    "noisy_steps",
)
"""Settings that are those of the run that trained the policy, unless they are given."""


def compare(
    policy: AnyModel,
    out: str | PathLike[str],
    *,
    baseline: AnyModel | None = None,
    reward: str | RewardModel | None = None,
    check_reward: str | RewardModel | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    **changes: Any,
) -> Comparison:
    """Evaluate a policy and its baseline on the same noise, and write figures, grid and report to a folder.

    A policy of a run is evaluated as it was trained: with the prompts, sampler and reward of the run. The noise is that
    of no data set. Run the same call again to continue after an interruption.

    >>> from ppod_train import compare
    >>> comparison = compare("run", "result", num_images_per_prompt=2, check_reward="none")
    >>> comparison.after.overall.num_images
    2

    Args:
        policy: RUN or RUN/policy, the name of a model, or a loaded model, which is not changed.
        out: Folder of the evaluation.
        baseline: The other policy; None for the model that the policy was trained from, "none" for no baseline. A
            LoRA policy of a loaded baseline shares its VAE, and no weights are loaded again.
        reward: Judges the images; None for the reward of the run, or `scenes` for the model `scenes`.
        check_reward: A second scorer, never trained on, which shows reward hacking; "none" for no such scorer. None
            takes `scenes-check` if the reward is `scenes`.
        device: Torch device; `auto` is a GPU if there is one. A loaded model stays on its device.
        progress: Counts images.
        changes: Fields of `EvalSettings`, in place of those of the run.

    Raises:
        ConfigError: The prompts or the reward are not known, or the settings are impossible.
        RewardError: The reward scores no image.
    """
    folder = Path(out).expanduser()
    check_out(folder, EVALUATION)
    source, run = source_of(policy)
    source = source if source.model is not None else replace(source, model=DEFAULT_MODEL)
    if source.adapter is not None and not isinstance(policy, DiffusionModel):
        _check_adapter(source.adapter, has_prompts=run is not None or bool(changes.get("prompts")))
    settings = _settings(run, changes)
    before = _baseline(baseline, source, run)
    judge = _judge(reward, source, run)
    second = _check_reward(check_reward, judge, run)
    with launched(device_for(policy, device)) as workers:
        progress = progress if workers.is_main else SILENT
        progress.note("loading reward and model")
        _look_ahead(source, settings, progress)
        comparison = run_evaluation(
            policy if isinstance(policy, DiffusionModel) else _on_baseline(source, before, workers.device),
            folder,
            _loaded(judge, run, workers.device),
            settings,
            baseline=before,
            check_reward=load_reward(second, workers.device) if isinstance(second, str) else second,
            progress=progress,
            workers=workers,
        )
    return comparison if run is None else replace(comparison, run=run.folder)


def _check_adapter(adapter: str, *, has_prompts: bool) -> None:
    """Raise ConfigError for an adapter that is not there, or is in no run, whose prompts would be taken."""
    adapter_file(adapter)
    if not has_prompts:
        raise ConfigError(
            f"no prompts: {adapter} is in no folder of a run, whose prompts would be taken: give --prompt TEXT or "
            "--prompts FILE"
        )


def _look_ahead(source: ModelSource, settings: EvalSettings, progress: Progress) -> None:
    """Note cut prompts, and refuse a wrong adapter of the policy before the baseline is evaluated."""
    skeleton = source.load_skeleton()
    note_cut_prompts(progress, skeleton, settings.prompts, settings.negative_prompt)
    if source.adapter is not None:
        with_adapter(skeleton, source.adapter)


def _settings(run: RunRecord | None, changes: dict[str, Any]) -> EvalSettings:
    """Return the settings of the run's sampler with the changes. Raises ConfigError as `EvalSettings.validate`."""
    values: dict[str, Any] = {}
    if run is not None:
        values = {name: run.generation[name] for name in _OF_THE_RUN if name in run.generation}
        values["prompts"] = run.prompts
        if "num_inference_steps" in changes:
            values.pop("noisy_steps", None)  # a range of another number of steps
    settings = EvalSettings(**values | changes)
    settings = replace(settings, prompts=tuple(settings.prompts))
    settings.validate()
    return settings


def _baseline(
    baseline: AnyModel | None, source: ModelSource, run: RunRecord | None
) -> ModelSource | DiffusionModel | None:
    """Return the policy to compare with. An adapter without a model is one on the model of the policy."""
    if baseline is None:
        return base_of(source, run)
    if baseline == NONE or isinstance(baseline, DiffusionModel):
        return baseline if isinstance(baseline, DiffusionModel) else None
    if isinstance(baseline, ModelSource) and baseline.model is None:
        return replace(source, adapter=baseline.adapter)
    return replace(source_of(baseline)[0], compute_dtype=source.compute_dtype)


def _on_baseline(
    source: ModelSource, baseline: ModelSource | DiffusionModel | None, device: str
) -> ModelSource | DiffusionModel:
    """Return the policy as an adapter on the loaded baseline if that is its model; else where to load it from."""
    if not isinstance(baseline, DiffusionModel) or source.adapter is None or baseline.device != device:
        return source
    base = replace(source, adapter=None, compute_dtype=source.compute_dtype or "fp32")
    return with_adapter(baseline, source.adapter) if source_of(baseline)[0] == base else source


def _judge(
    reward: str | RewardModel | None, source: ModelSource, run: RunRecord | None
) -> str | RewardModel | None:
    """Return the reward to load; None for the reward of the run."""
    if isinstance(reward, str):
        return check_reward_name(reward)
    if reward is None and (run is None or run.judge is None):
        return usual_reward(str(source.model))
    return reward


def _check_reward(
    check_reward: str | RewardModel | None, judge: str | RewardModel | None, run: RunRecord | None
) -> str | RewardModel | None:
    if check_reward is None:
        known = judge if judge is None or isinstance(judge, str) else judge.name
        name = known or (run.judge.name if run is not None and run.judge is not None else "")
        return check_name(None, name)
    return check_name(check_reward, "") if isinstance(check_reward, str) else check_reward


def _loaded(judge: str | RewardModel | None, run: RunRecord | None, device: str) -> RewardModel:
    if judge is None:
        assert run is not None and run.judge is not None, "a reward was chosen"
        return load_judge(run.judge, device)
    return load_reward(judge, device) if isinstance(judge, str) else judge
