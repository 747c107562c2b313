"""`train_online`: stages that sample, score, pair and train."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.source import DEFAULT_MODEL, ModelSource
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.rewards import RewardModel, load_reward
from ppod_data.rewards.usual import usual_reward
from ppod_data.storage.folder_kinds import ONLINE, check_out
from ppod_data.support.progress import SILENT, Progress
from ppod_train.library.launch import launched
from ppod_train.library.policies import AnyModel, source_of
from ppod_train.library.training import Run, check_name, device_for, note_cut_prompts
from ppod_train.online.online import train_online as run_stages
from ppod_train.online.records import OnlineSummary
from ppod_train.online.settings import OnlineSettings
from ppod_train.report import write_report


def train_online(
    out: str | PathLike[str],
    prompts: Sequence[str],
    settings: OnlineSettings | None = None,
    *,
    sampling: SamplingSettings | None = None,
    model: AnyModel = DEFAULT_MODEL,
    reward: str | RewardModel | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Run[OnlineSummary]:
    """Train in stages: each stage samples a data set with the newest policy, scores it, pairs it and trains on it.

    Run the same call again to continue after an interruption. More stages extend a run whose learning rate is
    constant. Processes that torchrun started share each phase.

    >>> from ppod_data import SamplingSettings
    >>> from ppod_train import OnlineSettings, TrainSettings, train_online
    >>> settings = OnlineSettings(
    ...     num_stages=1,
    ...     eval_images_per_prompt=0,
    ...     train=TrainSettings(num_train_steps=1, pairs_per_step=2, lora_rank=2),
    ... )
    >>> sampling = SamplingSettings(num_images_per_prompt=4, num_inference_steps=4)
    >>> train_online("online", ["a cat and a dog"], settings, sampling=sampling).summary.stages
    1

    Args:
        out: Folder of the run.
        prompts: Texts, all different.
        settings: Stages, pairs and training.
        sampling: How the data set of a stage is sampled.
        model: The reference, a whole pipeline. A loaded model is loaded again by its name and stays as it is.
        reward: Scores the data and judges the policies; None for `scenes` if the model is `scenes`.
        device: Torch device; `auto` is a GPU if there is one.
        progress: Counts the units of each phase: images, trajectories, steps.

    Raises:
        ConfigError: Arguments contradict each other or the run in `out`, or the reward is not known.
        NothingToLearnError: The reward gives all images of a prompt the same score.
    """
    settings, folder = settings or OnlineSettings(), Path(out).expanduser()
    check_out(folder, ONLINE)
    reference = named_model(model)
    if reward is None:
        reward = usual_reward(str(reference.model))
    check_name(reward)
    settings.validate()
    with launched(device_for(model, device)) as workers:
        progress = progress if workers.is_main else SILENT
        progress.note("loading reward and model")
        sampling = sampling or SamplingSettings()
        note_cut_prompts(progress, reference.load_skeleton(), prompts, sampling.negative_prompt)

        def load(source: ModelSource) -> DiffusionModel:
            return source.load(workers.device)

        summary = run_stages(
            folder,
            settings,
            reference=reference,
            build_spec=partial(build_spec, prompts=tuple(prompts), settings=sampling),
            load=load,
            reward=load_reward(reward, workers.device) if isinstance(reward, str) else reward,
            progress=progress,
            workers=workers,
        )
        run = Run(folder=folder, summary=summary)
        workers.on_main(lambda: write_report([run.folder], run.report))
    return run


def named_model(model: AnyModel) -> ModelSource:
    """Return where a model is loaded from; `scenes` if it is not named."""
    source = source_of(model)[0]
    return source if source.model is not None else replace(source, model=DEFAULT_MODEL)
