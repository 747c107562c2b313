"""`train`: train a policy on recorded data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Generic, TypeVar

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.merge import expand
from ppod_data.dataset.only_table import only_table
from ppod_data.diffusion.models.copies import copied
from ppod_data.diffusion.models.long_prompts import describe_cut_prompts
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError
from ppod_data.format.spec import GenerationSpec
from ppod_data.inspect.judge import judge_of_tables, load_judge
from ppod_data.rewards import RewardModel, check_reward_name, load_reward
from ppod_data.storage.files import AnyPath, data_path
from ppod_data.storage.folder_kinds import OFFLINE, check_out
from ppod_data.support.progress import SILENT, Progress
from ppod_train.data.training_data import DataSource
from ppod_train.library.launch import launched
from ppod_train.library.policies import AnyModel, source_of
from ppod_train.objectives import OBJECTIVES
from ppod_train.report import write_report
from ppod_train.run.train import TrainSummary, train_offline
from ppod_train.settings import TrainSettings

Summary = TypeVar("Summary")


@dataclass(frozen=True, kw_only=True)
class Run(Generic[Summary]):
    """A finished training run."""

    folder: Path
    summary: Summary

    @property
    def policy(self) -> Path:
        """Folder of the kept policy, for `load_policy`, `compare` and diffusers."""
        return self.folder / "policy"

    @property
    def report(self) -> Path:
        """HTML report on the run."""
        return self.folder / "report.html"


def train(
    data: AnyPath | Sequence[AnyPath] | DataSource,
    out: str | PathLike[str],
    settings: TrainSettings | None = None,
    *,
    model: AnyModel | None = None,
    reward: str | RewardModel | None = None,
    start: str | PathLike[str] | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Run[TrainSummary]:
    """Train a policy on the pairs or scores of one or more data sets, and write the run's folder with its report.

    Run the same call again to continue after an interruption. Processes that torchrun started share each step.

    >>> from ppod_train import TrainSettings, train
    >>> settings = TrainSettings(num_train_steps=1, pairs_per_step=2, lora_rank=2, eval_every=0)
    >>> train("data", "run", settings).summary.steps
    1

    Args:
        data: Folder or URL of a data set, several of them, or a `DataSource` that also names the tables.
        out: Folder of the run.
        settings: How to train.
        model: The reference; None for the model that made the data. A loaded model is copied and stays as it is.
        reward: Judges the policy while it trains; None for the reward that made the table.
        start: Policy to start from, a folder or a LoRA file; None starts from the reference.
        device: Torch device; `auto` is a GPU if there is one. A loaded model stays on its device.
        progress: Counts optimizer steps.

    Raises:
        ConfigError: Arguments contradict each other or the run in `out`.
        DriftError: The trainer does not compute the recorded log-probabilities.
    """
    settings, folder = settings or TrainSettings(), Path(out).expanduser()
    check_out(folder, OFFLINE)
    settings.validate()
    check_name(reward)
    source, datasets = opened_data(data, settings.objective)
    with launched(device_for(model, device)) as workers:
        progress = progress if workers.is_main else SILENT
        progress.note("loading reward and model")
        judge = _judge(source, datasets, settings, reward, workers.device)
        reference = _reference(model, datasets[0].spec, workers.device)
        prompts = list(dict.fromkeys(prompt for dataset in datasets for prompt in dataset.spec.prompts))
        note_cut_prompts(progress, reference, prompts, datasets[0].spec.negative_prompt)
        if judge is not None:
            progress.say(f"train: judged by {judge.name}")
        summary = train_offline(
            source,
            folder,
            settings,
            model=reference,
            reward=judge,
            start=None if start is None else Path(start),
            progress=progress,
            workers=workers,
        )
        workers.on_main(lambda: write_report([folder], folder / "report.html"))
    return Run(folder=folder, summary=summary)


def opened_data(
    data: AnyPath | Sequence[AnyPath] | DataSource, objective: str
) -> tuple[DataSource, list[Dataset]]:
    """Open the data sets, and return the tables to train on: the named ones, or the only ones.

    Raises:
        ConfigError: A table that the objective does not read is named, or there is not exactly one to choose.
    """
    source = data if isinstance(data, DataSource) else DataSource(roots=_paths(data))
    refuse_unread_table(source, objective)
    folder = "pairs" if OBJECTIVES[objective].on_pairs else "scores"
    datasets = [Dataset.open(root) for root in expand([data_path(root) for root in source.roots])]
    table = source.pairs or source.scores or only_table(datasets, folder, f"--{folder} NAME")
    return replace(source, roots=[dataset.root for dataset in datasets], pairs=table, scores=table), datasets


def refuse_unread_table(source: DataSource, objective: str) -> None:
    """Raise ConfigError if a table is named that the objective does not read."""
    if OBJECTIVES[objective].on_pairs and source.scores:
        raise ConfigError(f"objective {objective} trains on pairs: leave --scores out")
    if source.pairs and not OBJECTIVES[objective].on_pairs:
        raise ConfigError(
            f"objective {objective} trains on single trajectories and their scores: leave --pairs out"
        )


def device_for(model: object, device: str) -> str:
    """Return the device to compute on: that of a loaded model.

    Raises:
        ConfigError: Another device is named.
    """
    if not isinstance(model, DiffusionModel):
        return device
    if device not in ("auto", model.device):
        raise ConfigError(f"the model is on {model.device}, not on {device}: leave device out")
    return model.device


def check_name(reward: str | RewardModel | None) -> None:
    """Raise ConfigError if a reward is named that does not exist."""
    if isinstance(reward, str):
        check_reward_name(reward)


def note_cut_prompts(
    progress: Progress, model: DiffusionModel, prompts: Sequence[str], negative_prompt: str
) -> None:
    """Show which prompts the text encoders of the model cut."""
    note = describe_cut_prompts(model, prompts, negative_prompt)
    if note is not None:
        progress.say(f"note: {note}")


def _paths(data: AnyPath | Sequence[AnyPath]) -> Sequence[AnyPath]:
    return data if isinstance(data, Sequence) and not isinstance(data, str) else [data]


def _judge(
    source: DataSource,
    datasets: Sequence[Dataset],
    settings: TrainSettings,
    reward: str | RewardModel | None,
    device: str,
) -> RewardModel | None:
    """Load the reward that judges while training; None if nothing is evaluated.

    Raises:
        ConfigError: The reward that made the table is unknown or cannot be loaded.
    """
    if not settings.eval_every:
        return None
    if reward is not None:
        return load_reward(reward, device) if isinstance(reward, str) else reward
    folder, _, table = source.target_table(OBJECTIVES[settings.objective]).partition("/")
    return load_judge(judge_of_tables(datasets, folder, table), device, [data.root for data in datasets])


def _reference(model: AnyModel | None, spec: GenerationSpec, device: str) -> DiffusionModel:
    """Load the reference, or copy the network of a loaded one, which training changes."""
    if isinstance(model, DiffusionModel):
        return copied(model)
    source = ModelSource() if model is None else source_of(model)[0]
    return source.for_data(spec).load(device)
