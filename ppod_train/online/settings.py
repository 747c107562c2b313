"""The choices of an online training run, what is recorded of it, and what it asks of its caller."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.errors import ConfigError
from ppod_data.format.spec import GenerationSpec
from ppod_data.pairs.rank import check_pair_options
from ppod_train.evaluation.metrics import EvalResult
from ppod_train.policy.source import PolicySource
from ppod_train.settings import TrainSettings


class BuildSpec(Protocol):
    """`ppod_data.generation.build_spec.build_spec` with everything but the model and the stage given."""

    def __call__(self, model: DiffusionModel, *, stage: int) -> GenerationSpec: ...


class LoadPolicy(Protocol):
    """`ppod_data.diffusion.models.model.load_model` with device and precision given."""

    def __call__(self, source: PolicySource) -> DiffusionModel: ...


@dataclass(frozen=True, kw_only=True)
class OnlineSettings:
    """The choices of an online run beside those of its generation specs; `validate` has checked them."""

    num_stages: int = 4
    strategy: str = "random"
    """Which pairs: `ppod_data.pairs.rank.rank`, as the three below."""
    num_pairs_per_prompt: int | None = None
    min_margin: float = 0.0
    label_temperature: float | None = None
    eval_images_per_prompt: int = 64
    """Images of the evaluation on validation noise after every stage; 0 for none, which keeps the last policy."""
    eval_prompts: tuple[str, ...] | None = None
    """Prompts of the evaluations. None: all prompts of the run."""
    prompts_per_stage: int | None = None
    """A stage's data set is made of so many of the prompts, drawn anew for every stage. None: of all."""
    train: TrainSettings = field(default_factory=lambda: TrainSettings(num_train_steps=50, eval_every=0))
    """Of every stage; num_train_steps is a stage's."""

    def validate(self) -> None:
        """Raise ConfigError, naming the option, for a value outside its range."""
        for name, least in (("num_stages", 1), ("eval_images_per_prompt", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.prompts_per_stage is not None and self.prompts_per_stage < 1:
            raise ConfigError(f"prompts_per_stage must be at least 1, not {self.prompts_per_stage}")
        check_pair_options(self.strategy, self.num_pairs_per_prompt, self.min_margin, self.label_temperature)
        if self.train.eval_every:
            raise ConfigError("an online run is evaluated after every stage: leave eval_every at 0")
        self.train.validate()


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
    """0 where the stage's rewards tell no two images of a prompt apart: nothing is left to learn, and the run ends."""
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
    policy: str
    """The folder of the kept policy, relative to the run."""


@dataclass(frozen=True, kw_only=True)
class OnlineCallbacks:
    """How an online run tells its caller what happens."""

    on_phase: Callable[[int, str, int], None] = lambda stage, phase, total: None
    """A phase begins: the stage, its name, and how many units of work it has."""
    on_units: Callable[[int], None] = lambda count: None
    """Units of the phase done: images, trajectories or optimizer steps."""
    on_eval: Callable[[int, EvalResult], None] = lambda stage, result: None
    on_stage: Callable[[StageRecord], None] = lambda record: None
    on_finished_before: Callable[[int], None] = lambda stage: None
    """Called with the number of a stage that an earlier call finished."""
