"""Records of an online training run, and the functions that it takes from its caller."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.format.spec import GenerationSpec
from ppod_data.support.formatting import clock, number


class BuildSpec(Protocol):
    """`ppod_data.generation.build_spec.build_spec` with everything but the model and the stage given."""

    def __call__(self, model: DiffusionModel, *, stage: int) -> GenerationSpec:
        """Return the spec of a stage's data set."""


class LoadPolicy(Protocol):
    """`ppod_data.diffusion.models.model.load_model` with device and precision given."""

    def __call__(self, source: ModelSource) -> DiffusionModel:
        """Return a new copy of a model."""


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """How a stage went; written to stage.json."""

    stage: int
    reward_queries: int
    """Images scored in this stage, for its data and for its evaluation."""
    data_reward_mean: float
    """Mean reward of the stage's data: of the policy that the stage started from."""
    outside_band_at_start: float | None
    """Share of the stage's steps outside ± log_ratio_clip of the reference before its first update: with the clip
    anchored at the reference they have no gradient. None where nothing was trained."""
    steps: int
    """0 where the rewards of the stage, and of those that it replays, tell no two images of a prompt apart: nothing is
    left to learn, and the run ends."""
    seconds: Mapping[str, float]
    """Of generate, score, pair, log_probs, train and evaluate, of the process that ended the stage."""


@dataclass(frozen=True, kw_only=True)
class OnlineSummary:
    """How an online run ended; written to summary.json."""

    stages: int
    """Stages that were trained."""
    converged: bool
    """Whether the run ended because there was nothing left to learn."""
    best_stage: int
    reward_before: float | None
    """Mean validation reward of the reference; None without evaluations."""
    reward_best: float | None
    reward_queries: int
    improved: bool | None
    """Whether the kept policy's reward passes the reference's; None without evaluations."""
    verdict: str
    """One sentence about the kept policy (`ppod_train.report.verdict`)."""
    policy: str
    """The folder of the kept policy, relative to the run."""


def stage_line(record: StageRecord, num_stages: int) -> str:
    """Return one line about a finished stage of a run of `num_stages`."""
    stage = f"online: stage {record.stage} of {num_stages}"
    if record.steps == 0:
        return (
            f"{stage}: the reward tells no two images of a prompt apart enough; nothing is left to learn, and the run "
            "ends"
        )
    times = ", ".join(
        f"{name.replace('_', '-')} {clock(seconds)}"
        for name, seconds in record.seconds.items()
        if seconds >= 0.5
    )
    seconds = sum(record.seconds.values()) * (num_stages - record.stage)
    left = f"; about {clock(seconds)} left" if seconds else ""
    return (
        f"{stage}: its data's mean reward {number(record.data_reward_mean)}, {record.outside_band_at_start:.0%} of "
        f"steps outside the band at the start; {times}{left}"
    )
