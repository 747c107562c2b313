"""Comparison of a policy with its baseline on the same seeds: folder, picture and summary of `ppod-train eval`."""

import gc
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import DamagedError
from ppod_data.format.images import encode_png
from ppod_data.inspect.judge import check_prompts
from ppod_data.rewards import RewardModel
from ppod_data.storage.files import atomic_write
from ppod_data.storage.folder_kinds import EVALUATION, check_out
from ppod_data.storage.real_folders import refuse_linked_folders, remove_file, remove_tree, settled
from ppod_data.support.progress import SILENT, Inner, Progress
from ppod_train.distributed import SINGLE_PROCESS, Workers
from ppod_train.evaluation.evaluate import eval_spec, evaluate, filled_settings, images_of
from ppod_train.evaluation.files import read_evaluation, write_evaluation
from ppod_train.evaluation.grids import before_after_grid
from ppod_train.evaluation.metrics import EvalResult, Scorer
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.report import write_report


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Results of `run_evaluation` and the paths of its files."""

    before: EvalResult | None
    after: EvalResult
    folder: Path
    run: Path | None = None
    """Folder of the run that trained the policy; None if no run did."""

    @property
    def summary_path(self) -> Path:
        """File of the figures."""
        return self.folder / "summary.json"

    @property
    def grid_path(self) -> Path:
        """Picture of the same seeds before and after."""
        return self.folder / "grid.png"

    @property
    def report_path(self) -> Path:
        """HTML report."""
        return self.folder / "report.html"

    def summary(self) -> dict[str, object]:
        """Return the content of summary.json.

        `before` (None without a baseline) and `after` each hold the metrics over all prompts
        (`ppod_train.evaluation.metrics.Metrics`), the policy's name and the metrics of every prompt.
        """
        return {
            "before": None if self.before is None else _metrics(self.before),
            "after": _metrics(self.after),
        }


def run_evaluation(
    policy: ModelSource | DiffusionModel,
    out: Path,
    reward: RewardModel,
    settings: EvalSettings,
    *,
    baseline: ModelSource | DiffusionModel | None,
    check_reward: RewardModel | None = None,
    progress: Progress = SILENT,
    workers: Workers = SINGLE_PROCESS,
) -> Comparison:
    """Evaluate a policy, and the baseline on the same noise, and write the results to the folder `out`.

    The folder gets before/ and after/ (`ppod_train.evaluation.files`), summary.json with the metrics of both,
    grid.png (the same seeds before and after) and report.html. Of two sources, one is loaded at a time.
    A second run reuses evaluations of the same policies, images and scorers, and replaces other evaluations.

    Args:
        baseline: usually `replace(policy, adapter=None)`; None evaluates the policy alone.
        progress: counts the images of both policies that this process scores, the baseline's first.
        workers: the processes that share the images. All call this function; the main process writes.

    Raises:
        ConfigError: an unknown model or adapter, or impossible settings.
        RewardError: a reward that fails on every image, or that scores no image.
    """
    out = settled(out)
    check_out(out, EVALUATION)
    for model in (reward, check_reward):
        if model is not None:
            check_prompts(model, settings.prompts)

    def evaluated(
        source: ModelSource | DiffusionModel, before: EvalResult | None, folder: Path
    ) -> EvalResult:
        progress.note(f"the {'policy' if source is policy else 'baseline'}")
        model = source.load(workers.device) if isinstance(source, ModelSource) else source
        earlier = None if had_baseline else _finished(folder, model, reward, check_reward, settings, workers)
        if earlier is not None:
            progress.skip(_own_images(model, settings, workers))
            return earlier
        result = evaluate(
            model,
            reward,
            settings,
            baseline=before,
            check_reward=check_reward,
            progress=Inner(progress),
            workers=workers,
        )
        workers.on_main(lambda: _keep(out, folder, result))
        return result

    refuse_linked_folders(out)
    had_baseline = (
        baseline is None and (out / "before").exists()
    )  # after/ contains win rates and gains; evaluate again without
    num_images = len(settings.prompts) * settings.num_images_per_prompt
    progress.start((1 if baseline is None else 2) * -(-num_images // workers.world_size), "images")
    before = evaluated(baseline, None, out / "before") if baseline is not None else None
    gc.collect()
    after = evaluated(policy, before, out / "after")
    comparison = Comparison(
        before=before,
        after=after,
        folder=out,
    )
    workers.on_main(lambda: _write(comparison, out))
    return comparison


def _finished(
    folder: Path,
    model: DiffusionModel,
    reward: RewardModel,
    check_reward: RewardModel | None,
    settings: EvalSettings,
    workers: Workers,
) -> EvalResult | None:
    """Return the evaluation in `folder` if every process reads it and the policy, images and scorers match."""
    scorers = [Scorer.of(scorer_model) if scorer_model else None for scorer_model in (reward, check_reward)]
    earlier: EvalResult | None = None
    with suppress(DamagedError):
        earlier = read_evaluation(folder)
    matches = earlier is not None and (
        (earlier.policy_fingerprint, earlier.settings)
        == (model.fingerprint, filled_settings(model, settings))
        and [earlier.scorer, earlier.check_scorer] == scorers
    )
    agreed = workers.sum(torch.tensor(float(matches)))
    return earlier if agreed == workers.world_size else None


def _own_images(model: DiffusionModel, settings: EvalSettings, workers: Workers) -> int:
    return len(images_of(eval_spec(model, settings), workers))


def _keep(out: Path, folder: Path, result: EvalResult) -> None:
    """Write one policy's evaluation, so that an interrupted comparison resumes; remove outdated results first."""
    for name in ("summary.json", "grid.png", "report.html"):
        remove_file(out / name)
    if folder.name == "before":
        remove_tree(out / "after")
    write_evaluation(folder, result)


def _write(comparison: Comparison, out: Path) -> None:
    if comparison.before is None:
        remove_tree(out / "before")  # of an earlier evaluation in this folder
    atomic_write(comparison.grid_path, encode_png(before_after_grid(comparison.before, comparison.after)))
    atomic_write(comparison.summary_path, (json.dumps(comparison.summary(), indent=1) + "\n").encode())
    write_report([out], comparison.report_path)


def _metrics(result: EvalResult) -> dict[str, object]:
    return {
        "model": result.model,
        "adapter": result.adapter,
        **asdict(result.overall),
        "prompts": {prompt: asdict(metrics) for prompt, metrics in result.prompts.items()},
    }
