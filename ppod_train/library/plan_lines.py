"""Lines of text that sum up a dry run of training."""

import dataclasses
from typing import Any

from ppod_data.library.lines.data import generation_plan_lines
from ppod_data.support.formatting import amount, clock, counted
from ppod_train.library.plans import RunPlan
from ppod_train.run.cost import TrainingPlan


def offline_plan(plan: RunPlan) -> tuple[dict[str, Any], list[str]]:
    """Return the figures and lines of a dry run of offline training."""
    figures = {**dataclasses.asdict(plan.training), "seconds": plan.seconds}
    return figures, [
        "nothing was done; training would take",
        *_training_lines(plan.training),
        _time_line(plan.seconds),
        *plan.choices,
    ]


def online_plan(plan: RunPlan) -> tuple[dict[str, Any], list[str]]:
    """Return the figures and lines of a dry run of online training."""
    figures = {
        "num_stages": plan.num_stages,
        "reward_queries": plan.reward_queries,
        **dataclasses.asdict(plan.training),
        "seconds": plan.seconds,
    }
    generation = plan.training.generation
    return figures, [
        f"nothing was done; {counted(plan.num_stages, 'stage')} would score {counted(plan.reward_queries, 'image')}; "
        "each stage would take",
        f"to generate {counted(generation.num_samples, 'image')}:",
        *generation_plan_lines(generation),
        "to train:",
        *_training_lines(plan.training),
        *plan.choices,
        f"and {plan.reference_calls:,} network calls for the reference's log-probabilities in later stages",
        "of all stages together:",
        _time_line(plan.seconds),
    ]


def _time_line(seconds: float | None) -> str:
    """Return a line on the time in one process, without that of rewards."""
    if seconds is None:
        return "  time           unknown: the weights are not here"
    return f"  time           about {clock(seconds)} in one process, without the reward's own"


def _training_lines(plan: TrainingPlan) -> list[str]:
    """Return lines on network calls, disk and memory of training."""
    generation = plan.generation
    parts = [
        f"{amount(generation.pipeline_bytes)} of weights",
        f"{amount(plan.trained_bytes)} for the optimizer",
        *([f"{amount(plan.reference_bytes)} for the reference"] if plan.reference_bytes else []),
        f"{amount(plan.update_bytes)} in {'one pass' if plan.one_pass else 'two passes'} of an update",
    ]
    calls = plan.num_train_steps * plan.network_calls_per_step
    judged = f", and {plan.eval_calls:,} in evaluations" if plan.eval_calls else ""
    return [
        f"  network calls  at most {calls:,} in {plan.num_train_steps:,} updates{judged}",
        f"  disk           {amount(plan.disk_bytes)} of checkpoints and policy",
        f"  memory         {amount(plan.peak_bytes)}: {', '.join(parts)}",
        f"  host memory    at most {amount(generation.embedding_bytes)} of text embeddings",
    ]
