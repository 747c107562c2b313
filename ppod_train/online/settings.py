"""The choices of an online training run: Python arguments, command-line options and configuration keys."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from ppod_data.errors import ConfigError
from ppod_data.pairs.settings import PairSettings
from ppod_data.support.options import check_options, option, same_option
from ppod_train.settings import TrainSettings

STEPS_PER_STAGE = 50
_STAGES, _PAIRS = "Stages", "The pairs"


@dataclass(frozen=True, kw_only=True)
class OnlineSettings:
    """The choices of an online run beside those of its generation specs.

    >>> OnlineSettings(num_stages=8, train=TrainSettings(num_train_steps=25)).train.eval_every
    0
    """

    num_stages: int = option(
        4,
        "Stages; more may be added to a finished run whose learning rate is constant.",
        name="stages",
        panel=_STAGES,
        metavar="N",
        min=1,
    )
    prompts_per_stage: int | None = option(
        None,
        "Prompts of each stage's data set, drawn anew for every stage from all prompts.",
        panel=_STAGES,
        metavar="N",
        shown_default="all",
        min=1,
    )
    replay_stages: int | None = option(
        None,
        "Earlier stages whose data each stage trains on again; 0 for its own data alone.",
        panel=_STAGES,
        metavar="N",
        shown_default="all; 0 for an objective without pairs, or with --window-stride",
        min=0,
    )
    window_stride: int = option(
        0,
        "Steps by which the window of --noisy-steps moves at each stage, back to its start at the end of the chain; "
        "0 keeps it.",
        panel=_STAGES,
        metavar="N",
        min=0,
    )
    eval_images_per_prompt: int = option(
        64,
        "Images of each prompt in the evaluation after a stage, on noise of its own; 0 for none, which keeps the "
        "last policy.",
        panel=_STAGES,
        metavar="N",
        min=0,
    )
    eval_prompts: tuple[str, ...] | None = same_option(TrainSettings, "eval_prompts")
    check_reward: str | None = same_option(TrainSettings, "check_reward")
    stop_when: Literal["exploited"] | None = same_option(
        TrainSettings,
        "stop_when",
        help="exploited: stop after a stage whose evaluation shows that the policy exploits the reward.",
    )
    strategy: Literal["random", "best-worst", "all"] = same_option(PairSettings, "strategy", panel=_PAIRS)
    num_pairs_per_prompt: int | None = same_option(PairSettings, "num_pairs_per_prompt", panel=_PAIRS)
    min_margin: float = same_option(PairSettings, "min_margin", panel=_PAIRS)
    label_temperature: float | None = same_option(PairSettings, "label_temperature", panel=_PAIRS)
    train: TrainSettings = field(default_factory=lambda: TrainSettings(num_train_steps=STEPS_PER_STAGE))
    """Of every stage; num_train_steps is a stage's, and eval_every is 0."""

    def __post_init__(self) -> None:
        """Give the options of training their defaults for stages.

        Evaluations inside a stage are off, unless they were asked for, which `validate` refuses.
        """
        own: dict[str, Any] = {}
        if self.train.eval_every == TrainSettings.eval_every:
            own["eval_every"] = 0
        if self.train.lr_scheduler is None:
            own["lr_scheduler"] = "linear"
        if own:
            object.__setattr__(self, "train", replace(self.train, **own))

    @property
    def replay(self) -> int | Literal["all"]:
        """Return replay_stages, or its default."""
        from ppod_train.objectives import OBJECTIVES

        if self.replay_stages is not None:
            return self.replay_stages
        return "all" if OBJECTIVES[self.train.objective].on_pairs and not self.window_stride else 0

    def replayed(self, stage: int) -> range:
        """Return the earlier stages whose data stage number `stage` trains on again."""
        return range(1 if self.replay == "all" else max(1, stage - self.replay), stage)

    def validate(self) -> None:
        """Raise ConfigError, naming the option, for a value outside its range or one that is not read."""
        from ppod_data.pairs.rank import check_pair_options

        check_options(self)
        check_pair_options(self.strategy, self.num_pairs_per_prompt, self.min_margin, self.label_temperature)
        if self.train.eval_every:
            raise ConfigError("an online run is evaluated after every stage: leave eval_every at 0")
        if self.window_stride and self.replay_stages:
            raise ConfigError(
                "data of stages with different windows of noisy steps cannot be trained on together: leave "
                "--replay-stages or --window-stride out"
            )
        if self.window_stride and self.train.trained_steps is not None:
            raise ConfigError(
                "a window of noisy steps that moves is what is trained on: leave --trained-steps or --window-stride out"
            )
        self._refuse_unread()
        self.train.validate()

    def _refuse_unread(self) -> None:
        """Raise ConfigError for an option of pairs that was changed if the objective does not train on pairs."""
        from ppod_train.objectives import OBJECTIVES

        if OBJECTIVES[self.train.objective].on_pairs:
            return
        if self.replay_stages:
            raise ConfigError(
                f"objective {self.train.objective} compares the images of one policy, those of the newest stage: leave "
                "--replay-stages out"
            )
        for one in fields(self):
            known = one.metadata.get("option")
            if known is not None and known.panel == _PAIRS and getattr(self, one.name) != one.default:
                raise ConfigError(
                    f"objective {self.train.objective} trains on single trajectories and their scores: leave "
                    f"--{one.name.replace('_', '-')} out"
                )
