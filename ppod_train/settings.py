"""Every choice of a training run, with its reason. What each default is worth: docs/experiments.md."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from ppod_data.errors import ConfigError
from ppod_train.objectives import OBJECTIVES
from ppod_train.objectives.targets import CLIP_ANCHORS, CLIP_MODES, STEP_WEIGHTS, LossOptions

GRADIENTS = ("auto", "one-pass", "two-pass")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings of `train_offline`; `validate` has checked them."""

    objective: str = "ppod"
    """A name of `ppod_train.objectives.OBJECTIVES`; what it does not read is refused."""
    dpo_beta: float = 10.0
    """The paper's η times the N latent dimensions; with the clip it bounds the logit by 2·dpo_beta·T·clip."""
    log_ratio_clip: float | None = None
    """The paper's ε, on the log-ratio averaged over latent dimensions; `inf` turns the clip off. None: what suits the
    model and its chain (`ppod_train.run.model_defaults`)."""
    clip_anchor: str = "reference"
    """The band is around the reference (Eq. 10), or around the policy that made the data (`stage`)."""
    clip_mode: str = "paper"
    """What happens outside the band: `ppod_train.objectives.clip`."""
    step_weight: str | None = None
    """What a step's log-ratio is multiplied by before the clip: nothing (Eq. 10), k_med/k_t or its square, which gives
    the band's edge the same meaning at every step (`ppod_train.step.step_weight`). None: what suits the model."""
    pull_back: float = 0.0
    """Force that leads steps outside the band back to it, in units of a pair's own; 0 is Eq. 10."""
    kl_weight: float = 0.0
    """Weight of the closed-form KL to the reference, averaged over steps; any value costs a forward pass more."""
    reward_temperature: float = 1.0
    """The reward difference that counts as one unit of the logit (prdp); the standardised reward that weighs e times
    as much (sft)."""
    best_of: int = 8
    """sft-best trains on the best of every so many images."""
    lora_rank: int = 8
    """Rank of the LoRA on the attention projections; 0 trains all weights of the network."""
    learning_rate: float | None = None
    """AdamW's. None: what suits the model, and for its full weights (lora_rank 0) a hundredth of it."""
    weight_decay: float = 0.0
    ema_decay: float = 0.0
    """The policy is the exponential moving average of the trained weights: an update keeps this share of it. 0 is the
    trained weights themselves. The next stage of an online run starts from the average: with 0.99 and 50 updates it
    starts with a quarter to a third of what the stage has changed."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm where it is larger."""
    num_train_steps: int = 200
    pairs_per_step: int = 16
    """Pairs whose mean loss is one optimizer step; the network sees each of their trajectories once. An objective of
    single trajectories takes twice as many of them."""
    timesteps_per_update: int | None = None
    """Use a random S of the T timesteps a step, scaled by T/S: cheaper, and an approximation in which pairs count too
    equally, the more so the larger dpo_beta·log_ratio_clip. None: all, exact."""
    batch_size: int | None = None
    """Evaluations in one network call. None: the data set's own batch size, which makes the replay exact."""
    gradient: str = "auto"
    """one-pass keeps the whole graph, two-pass one chunk of it; auto takes one-pass where the graph fits into
    max_graph_gib and most steps are inside the band. All give the same gradient."""
    max_graph_gib: float | None = None
    """None: a third of a GPU's memory, 4 on a CPU."""
    """The most that the graph of one pass may hold, and that of a chunk of two passes, which is one evaluation at
    least."""
    gradient_checkpointing: bool = False
    """Compute the network's inner activations again in the backward pass instead of keeping them: a fraction of the
    memory for a third more time, and the same gradient."""
    seed: int = 0
    """Order of the pairs, timestep subsets, LoRA's initial weights."""
    eval_every: int = 40
    """Steps between evaluations on validation noise; the best policy by mean reward is kept. 0: never, and the
    last policy is kept."""
    eval_images_per_prompt: int = 64
    eval_prompts: tuple[str, ...] | None = None
    """Prompts of the evaluations. None: those that are trained on."""
    patience: int = 3
    """Stop after this many evaluations without a better one. 0: never stop early."""
    checkpoint_every: int = 40
    drift_samples: int = 8
    """Trajectories that are replayed before training, to compare their log-probabilities with the stored ones."""

    @property
    def graph_limit(self) -> float:
        """max_graph_gib in bytes, 4 GiB where it was neither given nor chosen for a device."""
        return (4.0 if self.max_graph_gib is None else self.max_graph_gib) * 2**30

    @classmethod
    def of(cls, objective: str, **given: Any) -> "TrainSettings":
        """Settings for an objective: what is given, else the objective's own defaults, else those of ppod.

        Raises ConfigError for an unknown objective.
        """
        if objective not in OBJECTIVES:
            raise ConfigError(f"objective {objective} is unknown: {', '.join(OBJECTIVES)} are known")
        return cls(**{"objective": objective, **OBJECTIVES[objective].defaults, **given})

    @property
    def clip(self) -> float:
        """log_ratio_clip, where it was given or chosen for the model."""
        assert self.log_ratio_clip is not None
        return self.log_ratio_clip

    def loss_options(self, timestep_scale: float = 1.0) -> LossOptions:
        """What the loss function reads."""
        names = [field.name for field in fields(LossOptions) if field.name != "timestep_scale"]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        options = LossOptions(timestep_scale=timestep_scale, **given)
        return replace(options, clip_anchor="stage") if OBJECTIVES[self.objective].clips_at_stage else options

    def _refuse_unread(self) -> None:
        """Raise ConfigError for an option that the objective does not read and that was changed."""
        plain, reads = type(self)(), OBJECTIVES[self.objective].reads
        for name in (*(field.name for field in fields(LossOptions)), "best_of", "step_weight"):
            if name != "timestep_scale" and name not in reads and getattr(self, name) != getattr(plain, name):
                raise ConfigError(
                    f"objective {self.objective} does not read {name}: leave it out; it reads "
                    f"{', '.join(sorted(reads))}"
                )
        if self.kl_weight and OBJECTIVES[self.objective].on_final_latents:
            raise ConfigError(
                f"objective {self.objective} does not read kl_weight: noise predictions have no step to take it of"
            )

    def validate(self) -> None:
        """Raise ConfigError, naming the option, for a value outside its range."""
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective {self.objective} is unknown: {', '.join(OBJECTIVES)} are known")
        choices = {
            "gradient": GRADIENTS,
            "clip_anchor": CLIP_ANCHORS,
            "clip_mode": CLIP_MODES,
            "step_weight": STEP_WEIGHTS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in (*known, *([None] if name == "step_weight" else [])):
                raise ConfigError(f"{name} {getattr(self, name)} is unknown: {', '.join(known)} are known")
        self._refuse_unread()
        if self.pull_back and self.log_ratio_clip is not None and not math.isfinite(self.log_ratio_clip):
            raise ConfigError("pull_back leads back to a band: give a finite log_ratio_clip")
        positive = (
            "dpo_beta",
            "log_ratio_clip",
            "reward_temperature",
            "learning_rate",
            "max_grad_norm",
            "max_graph_gib",
        )
        for name in positive:
            if getattr(self, name) is None:
                continue
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
            if name != "log_ratio_clip" and not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} must be finite, not {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must be at least 0 and below 1, not {self.ema_decay}")
        at_least = {
            "pull_back": 0,
            "kl_weight": 0,
            "best_of": 2,
            "lora_rank": 0,
            "weight_decay": 0,
            "num_train_steps": 1,
            "pairs_per_step": 1,
            "timesteps_per_update": 1,
            "batch_size": 1,
            "eval_every": 0,
            "eval_images_per_prompt": 1,
            "patience": 0,
            "checkpoint_every": 1,
            "drift_samples": 1,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ConfigError(f"{name} must be at least {least} and finite, not {value}")
