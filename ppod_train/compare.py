"""A policy beside its baseline on the same seeds: folder, picture and table of `ppod-train eval`."""

import gc
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ppod_data.diffusion.model import load_model
from ppod_data.files import atomic_write
from ppod_data.folder_kinds import EVALUATION, check_out
from ppod_data.images import encode_png
from ppod_data.judge import check_prompts
from ppod_data.real_folders import refuse_linked_folders, remove_tree, settled
from ppod_data.rewards import RewardModel
from ppod_train.eval_files import write_evaluation
from ppod_train.evaluate import OnBatch, evaluate
from ppod_train.figures import EvalResult, EvalSettings
from ppod_train.grids import before_after_grid
from ppod_train.report import write_report
from ppod_train.workers import ALONE, Workers


@dataclass(frozen=True, kw_only=True)
class PolicySource:
    """Where a policy is loaded from: the arguments of `load_model`."""

    model: str
    revision: str | None = None
    variant: str | None = None
    adapter: str | None = None


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
        prompts (`ppod_train.figures.Figures`), the policy's name and the figures of every prompt."""
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
    workers: Workers = ALONE,
) -> Comparison:
    """Evaluate a policy, and the baseline on the same noise, and write what was found to the folder `out`.

    The folder gets before/ and after/ (`ppod_train.eval_files`), summary.json with the figures of both, grid.png
    (the same seeds before and after) and report.html. The two policies are never in memory together.

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

    def evaluated(source: PolicySource, before: EvalResult | None) -> EvalResult:
        model = load_model(
            source.model,
            revision=source.revision,
            variant=source.variant,
            adapter=source.adapter,
            device=device,
            compute_dtype=compute_dtype,
        )
        return evaluate(
            model,
            reward,
            settings,
            baseline=before,
            check_reward=check_reward,
            on_batch=on_batch,
            workers=workers,
        )

    before = evaluated(baseline, None) if baseline is not None else None
    gc.collect()
    after = evaluated(policy, before)
    comparison = Comparison(
        before=before,
        after=after,
        summary_path=out / "summary.json",
        grid_path=out / "grid.png",
        report_path=out / "report.html",
    )
    workers.first(lambda: _write(comparison, out))
    return comparison


def _write(found: Comparison, out: Path) -> None:
    refuse_linked_folders(out)
    remove_tree(out / "before")  # of an earlier evaluation in this folder
    if found.before is not None:
        write_evaluation(out / "before", found.before)
    write_evaluation(out / "after", found.after)
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
