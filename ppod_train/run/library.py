"""Training and its policy in Python: what a notebook needs."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.merge import expand
from ppod_data.dataset.only_table import only_table
from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_data.errors import ConfigError
from ppod_data.inspect.judge import judge_of_tables, load_judge
from ppod_data.rewards import RewardModel, load_reward
from ppod_data.storage.files import AnyPath, data_path
from ppod_data.support.progress import SILENT, Progress
from ppod_train.data.training_data import DataSource
from ppod_train.objectives import OBJECTIVES
from ppod_train.report import write_report
from ppod_train.run.run_record import run_of
from ppod_train.run.train import Callbacks, TrainSummary, train_offline
from ppod_train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished training run."""

    folder: Path
    summary: TrainSummary

    @property
    def policy(self) -> Path:
        """Folder of the kept policy, for `load_policy` and for diffusers."""
        return self.folder / self.summary.policy

    @property
    def report(self) -> Path:
        """HTML report on the run."""
        return self.folder / "report.html"


def train(
    data: AnyPath | Sequence[AnyPath],
    out: str | PathLike[str],
    settings: TrainSettings | None = None,
    *,
    table: str | None = None,
    model: str | DiffusionModel | None = None,
    reward: str | RewardModel | None = None,
    start: str | PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> Run:
    """Train a policy on the pairs or scores of one or more data sets, in one process.

    Run again with the same arguments, an interrupted run resumes.

    >>> settings = TrainSettings(num_train_steps=1, pairs_per_step=2, lora_rank=2, eval_every=0)
    >>> run = train("data", "run", settings)
    >>> run.summary.steps
    1

    Args:
        data: folder or URL of a data set, or several.
        out: folder of the run.
        table: table of pairs, or of scores if the objective reads scores; None for the only one.
        model: the reference, by name or loaded; a loaded model is copied and stays as it is. None loads the model that
            made the data.
        reward: judges the policy while it trains; None for the reward that made the table.
        start: folder of the policy to start from; None starts from the reference.

    Raises:
        ConfigError: arguments that contradict each other or the run in `out`.
        DriftError: the trainer does not compute the recorded log-probabilities.
    """
    settings = settings or TrainSettings()
    paths = data if isinstance(data, Sequence) and not isinstance(data, str) else [data]
    datasets = [Dataset.open(root) for root in expand([data_path(path) for path in paths])]
    objective = OBJECTIVES[settings.objective]
    folder = "pairs" if objective.on_pairs else "scores"
    table = table or only_table(datasets, folder, "table=NAME")
    roots = [dataset.root for dataset in datasets]
    source = DataSource(roots=roots, pairs=table, scores=table)
    reference = _reference(model, datasets[0])
    if settings.eval_every and reward is None:
        reward = load_judge(judge_of_tables(datasets, folder, table), reference.device, roots)
    folder_out = Path(out).expanduser().absolute()
    summary = train_offline(
        source,
        folder_out,
        settings,
        model=reference,
        reward=load_reward(reward, reference.device) if isinstance(reward, str) else reward,
        start=None if start is None else Path(start),
        callbacks=_callbacks(settings, progress),
    )
    run = Run(folder=folder_out, summary=summary)
    write_report([run.folder], run.report)
    return run


def load_policy(
    policy: str | PathLike[str], *, device: str = "cpu", compute_dtype: str | None = None
) -> DiffusionModel:
    """Load the policy of a run, with the model that it was trained from.

    >>> load_policy("run").adapter
    'run/policy'

    Args:
        policy: RUN, or RUN/policy.
        compute_dtype: fp32, bf16 or fp16; None as the run trained it.

    Raises:
        ConfigError: the folder is not of a run.
    """
    folder = Path(policy)
    folder = folder if folder.name == "policy" else folder / "policy"
    run = run_of(str(folder))
    if run is None:
        raise ConfigError(f"{policy} holds no policy of a run: give RUN or RUN/policy")
    dtype = compute_dtype or run.generation.get("compute_dtype", "fp32")
    if run.whole:
        return load_model(str(folder), device=device, compute_dtype=dtype)
    return load_model(
        run.model,
        revision=run.generation.get("revision"),
        variant=run.generation.get("variant"),
        adapter=str(folder),
        device=device,
        compute_dtype=dtype,
    )


def _reference(model: str | DiffusionModel | None, dataset: Dataset) -> DiffusionModel:
    """Load the reference, or copy the network of a loaded one, which training changes."""
    spec = dataset.spec
    if isinstance(model, DiffusionModel):
        pipeline = copy.copy(model.pipeline)
        setattr(pipeline, model.family.denoiser, copy.deepcopy(model.denoiser))
        return replace(model, pipeline=pipeline)
    if model is not None:
        return load_model(model, compute_dtype=spec.compute_dtype)
    return load_model(
        spec.model,
        revision=spec.revision,
        variant=spec.variant,
        adapter=spec.adapter,
        compute_dtype=spec.compute_dtype,
    )


def _callbacks(settings: TrainSettings, progress: Progress) -> Callbacks:
    def begin(step: int) -> None:
        progress.start(settings.num_train_steps, "steps")
        progress.skip(step)

    return Callbacks(
        on_start=lambda drift, step: begin(step),
        on_step=lambda metrics: progress.advance(1),
        on_eval=lambda step, result: progress.say(f"step {step}: reward {result.reward:.3f}"),
    )
