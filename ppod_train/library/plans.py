"""Estimates of training runs, for a dry run: nothing is trained and nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ppod_data.diffusion.models.model import calls_per_prediction
from ppod_data.diffusion.models.model_folder import has_weights
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.cost import measure_seconds
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.storage.files import AnyPath
from ppod_data.support.processes import resolve_device
from ppod_train.data.steps import reference_steps
from ppod_train.data.training_data import DataSource
from ppod_train.library.online import named_model
from ppod_train.library.policies import AnyModel
from ppod_train.library.training import opened_data
from ppod_train.objectives import OBJECTIVES
from ppod_train.online.settings import OnlineSettings
from ppod_train.run.cost import TrainingPlan, plan_training
from ppod_train.run.model_defaults import explain_choices
from ppod_train.run.start_checks import check_start
from ppod_train.settings import TrainSettings, step_range


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Estimate of a run."""

    training: TrainingPlan
    """Of the run, or of each stage of an online run."""
    choices: tuple[str, ...]
    """The settings that are chosen for the model, in words."""
    seconds: float | None
    """Of the whole run in one process, without the reward's time; None if the model's weights are not on this
    machine."""
    num_stages: int = 0
    reward_queries: int = 0
    """Images that an online run scores."""
    reference_calls: int = 0
    """Network calls of an online run for the reference's log-probabilities."""


def plan_offline(
    data: AnyPath | Sequence[AnyPath] | DataSource,
    settings: TrainSettings,
    *,
    model: ModelSource,
    device: str = "auto",
) -> RunPlan:
    """Estimate what `train` takes. Raises ConfigError as `train` does."""
    settings.validate()
    datasets = opened_data(data, settings.objective)[1]
    spec = datasets[0].spec
    source = model.for_data(spec)
    prompts = tuple(dict.fromkeys(prompt for dataset in datasets for prompt in dataset.spec.prompts))
    judged = replace(settings, eval_prompts=settings.eval_prompts or prompts)
    plan = plan_training(source.load_skeleton(), spec, judged)
    data_seconds = _seconds_of_data(spec, source, device)
    return RunPlan(
        training=plan,
        choices=tuple(explain_choices(settings, spec)),
        seconds=None if data_seconds is None else plan.seconds(data_seconds),
    )


def plan_online(
    prompts: Sequence[str],
    settings: OnlineSettings,
    *,
    sampling: SamplingSettings,
    model: AnyModel,
    device: str = "auto",
) -> RunPlan:
    """Estimate what `train_online` takes. Raises ConfigError as `train_online` does."""
    settings.validate()
    source = named_model(model)
    skeleton = source.load_skeleton()
    spec = build_spec(skeleton, prompts[: settings.prompts_per_stage], sampling)
    stages = settings.num_stages
    check_start(settings.train, spec, num_steps=stages * settings.train.num_train_steps)
    plan = plan_training(skeleton, spec, settings.train)
    judged = settings.eval_images_per_prompt * len(settings.eval_prompts or prompts)
    trained, objective = step_range(settings.train.trained_steps), OBJECTIVES[settings.train.objective]
    read = reference_steps(spec, objective, trained) or range(spec.num_inference_steps)
    num_steps = len(set(plan.generation.noisy_steps) & set(read))
    halves = calls_per_prediction(skeleton, spec.guidance_scale)
    reference_calls = spec.num_samples * num_steps * halves * (stages - 1)
    data_seconds, seconds = _seconds_of_data(spec, source, device), None
    if data_seconds is not None:
        evaluations = (stages + 1) * judged / spec.num_samples * data_seconds
        reference = reference_calls / plan.generation.network_calls * data_seconds
        seconds = stages * (data_seconds + plan.seconds(data_seconds)) + reference + evaluations
    return RunPlan(
        training=plan,
        choices=tuple(explain_choices(settings.train, spec)),
        seconds=seconds,
        num_stages=stages,
        reward_queries=stages * spec.num_samples + (stages + 1) * judged,
        reference_calls=reference_calls,
    )


def _seconds_of_data(spec: GenerationSpec, source: ModelSource, device: str) -> float | None:
    """Measure the seconds to sample a data set on this machine; None if the model's weights are not on it."""
    if source.model is None or not has_weights(source.model):
        return None
    return measure_seconds(spec, source.load(resolve_device(device)))
