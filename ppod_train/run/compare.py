"""A policy beside its baseline on the same seeds: folder, picture and table of `ppod-train eval`."""

import gc
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_data.errors import DamagedError
from ppod_data.format.images import encode_png
from ppod_data.inspect.judge import check_prompts
from ppod_data.rewards import RewardModel
from ppod_data.storage.files import atomic_write
from ppod_data.storage.folder_kinds import EVALUATION, check_out
from ppod_data.storage.real_folders import refuse_linked_folders, remove_file, remove_tree, settled
from ppod_train.distributed import SINGLE_PROCESS, Workers
from ppod_train.evaluation.evaluate import OnBatch, eval_spec, evaluate, filled_settings, images_of
from ppod_train.evaluation.files import read_evaluation, write_evaluation
from ppod_train.evaluation.grids import before_after_grid
from ppod_train.evaluation.metrics import EvalResult, Scorer
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.policy.source import PolicySource
from ppod_train.report import write_report


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What `run_evaluation` found, and where it is."""

    before: EvalResult | None
    after: EvalResult
    summary_path: Path
    grid_path: Path
    report_path: Path

    def summary(self) -> dict[str, object]:
        """What summary.json holds: `before` (None without a baseline) and `after`, each with the figures over all
        prompts (`ppod_train.evaluation.metrics.Metrics`), the policy's name and the figures of every prompt."""
        return {
            "before": None if self.before is None else _figures(self.before),
            "after": _figures(self.after),
        }


def run_evaluation(
    policy: PolicySource,
    out: Path,
    reward: RewardModel,
    settings: EvalSettings,
    *,
    baseline: PolicySource | None,
    check_reward: RewardModel | None = None,
    device: str = "cpu",
    compute_dtype: str = "fp32",
    on_batch: OnBatch = lambda num_images: None,
    workers: Workers = SINGLE_PROCESS,
) -> Comparison:
    """Evaluate a policy, and the baseline on the same noise, and write what was found to the folder `out`.

    The folder gets before/ and after/ (`ppod_train.evaluation.files`), summary.json with the figures of both, grid.png
    (the same seeds before and after) and report.html. The two policies are never in memory together. Run again, it
    takes what is there of the same policies, images and scorers, and replaces an evaluation of others.

    Args:
        baseline: usually `replace(policy, adapter=None)`; None evaluates the policy alone.
        on_batch: called with the number of images of each batch that this process scored, the baseline's first.
        workers: the processes that share the images, all of which call this; the first one writes.

    Raises:
        ConfigError: an unknown model or adapter, or impossible settings.
        RewardError: a reward that is wrong whatever the image, or has no score for any.
    """
    out = settled(out)

    check_out(out, EVALUATION)
    for model in (reward, check_reward):
        if model is not None:
            check_prompts(model, settings.prompts)

    def evaluated(source: PolicySource, before: EvalResult | None, folder: Path) -> EvalResult:
        model = load_model(
            source.model,
            revision=source.revision,
            variant=source.variant,
            adapter=source.adapter,
            device=device,
            compute_dtype=compute_dtype,
        )
        found = None if had_baseline else _finished(folder, model, reward, check_reward, settings, workers)
        if found is not None:
            on_batch(_own_images(model, settings, workers))
            return found
        result = evaluate(
            model,
            reward,
            settings,
            baseline=before,
            check_reward=check_reward,
            on_batch=on_batch,
            workers=workers,
        )
        workers.on_main(lambda: _keep(out, folder, result))
        return result

    refuse_linked_folders(out)
    had_baseline = baseline is None and (out / "before").exists()  # its win rates and gains are not asked for
    before = evaluated(baseline, None, out / "before") if baseline is not None else None
    gc.collect()
    after = evaluated(policy, before, out / "after")
    comparison = Comparison(
        before=before,
        after=after,
        summary_path=out / "summary.json",
        grid_path=out / "grid.png",
        report_path=out / "report.html",
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
    """Return the evaluation in `folder` where all processes find it there, of this policy, these images and scorers."""
    scorers = [
        Scorer(name=one.name, revision=one.revision) if one else None for one in (reward, check_reward)
    ]
    found: EvalResult | None = None
    with suppress(DamagedError):
        found = read_evaluation(folder)
    same = found is not None and (
        (found.policy_fingerprint, found.settings) == (model.fingerprint, filled_settings(model, settings))
        and [found.scorer, found.check_scorer] == scorers
    )
    agreed = workers.sum(torch.tensor(float(same)))
    return found if agreed == workers.world_size else None


def _own_images(model: DiffusionModel, settings: EvalSettings, workers: Workers) -> int:
    return len(images_of(eval_spec(model, settings), workers))


def _keep(out: Path, folder: Path, result: EvalResult) -> None:
    """Write one policy's evaluation, so that an interrupted comparison resumes; what was made of others goes first."""
    for name in ("summary.json", "grid.png", "report.html"):
        remove_file(out / name)
    if folder.name == "before":
        remove_tree(out / "after")
    write_evaluation(folder, result)


def _write(found: Comparison, out: Path) -> None:
    if found.before is None:
        remove_tree(out / "before")  # of an earlier evaluation in this folder
    atomic_write(found.grid_path, encode_png(before_after_grid(found.before, found.after)))
    atomic_write(found.summary_path, (json.dumps(found.summary(), indent=1) + "\n").encode())
    write_report([out], found.report_path)


def _figures(result: EvalResult) -> dict[str, object]:
    return {
        "model": result.model,
        "adapter": result.adapter,
        **asdict(result.overall),
        "prompts": {prompt: asdict(figures) for prompt, figures in result.prompts.items()},
    }
