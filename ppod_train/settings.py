"""Every choice of a training run, with its reason. What each default is worth: docs/experiments.md.

A field is a Python argument, a command-line option, a key of --config and a check of its value.
"""

import math
import re
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from ppod_data.errors import ConfigError
from ppod_data.support.options import check_options, option

if TYPE_CHECKING:
    from ppod_train.objectives import Objective
    from ppod_train.objectives.targets import LossOptions

DEFAULT_RANK = 8
OLDER_VALUES = {"lr_scheduler": "constant", "lr_warmup_steps": 0, "torch_compile": False}
"""Values that options had before they existed, for the records of older runs."""
_LOSS, _OPTIMIZER, _COMPUTE, _KEEPING = "The loss", "The optimizer", "Compute", "Choosing the policy"
_USUAL = "usual"


def _by_objective(usual: Any, help: str, *, shown_default: str | None = None, **known: Any) -> Any:
    """Return an option of the loss whose default is the objective's own, or else `usual`."""
    shown = shown_default or f"{usual if isinstance(usual, str) else format(usual, 'g')} for ppod"
    plain = option(None, help, panel=_LOSS, shown_default=shown, **known)
    return field(default=None, metadata={**plain.metadata, _USUAL: usual})


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings of a training run.

    An option of the loss that is not given is the objective's own default:

    >>> TrainSettings(objective="prdp", learning_rate=1e-4).clip_anchor
    'stage'
    """

    objective: Literal[
        "ppod",
        "ppod-mse",
        "prdp",
        "d3po",
        "diffusion-dpo",
        "diffusion-nft",
        "awm",
        "ddpo",
        "dpok",
        "sft",
        "sft-best",
    ] = option(
        "ppod",
        "What is minimised. On pairs: ppod (Eq. 10, cross-entropy), ppod-mse, prdp, d3po, diffusion-dpo; on single "
        "trajectories and their scores: diffusion-nft, awm, ddpo, dpok, sft, sft-best.",
        panel=_LOSS,
    )
    """A name of `ppod_train.objectives.OBJECTIVES`. An option that the objective does not read is refused."""
    dpo_beta: float = _by_objective(
        10.0, "The paper's η times the latent's dimensions.", metavar="X", above=0
    )
    """With the clip it bounds the logit by 2·dpo_beta·T·clip."""
    log_ratio_clip: float | None = option(
        None,
        "The paper's ε, on the log-ratio averaged over latent dimensions; inf for no clip.",
        panel=_LOSS,
        metavar="X",
        shown_default="0.01 for scenes; otherwise by the chain",
        above=0,
        may_be_infinite=True,
    )
    """None: chosen for the model and its chain (`ppod_train.run.model_defaults`)."""
    clip_anchor: Literal["reference", "stage"] = _by_objective(
        "reference",
        "The clip's band is around the reference (Eq. 10), or around the policy that made the data.",
    )
    clip_mode: Literal["paper", "pessimistic-step", "pessimistic-pair"] = _by_objective(
        "paper",
        "Outside the band: no gradient (Eq. 10); or one where the step, or the pair, is on the wrong side.",
    )
    """The formulas: `ppod_train.objectives.clip`."""
    step_weight: Literal["none", "k", "k2"] | None = option(
        None,
        "Factor of a step's log-ratio before the clip: none (Eq. 10), or less for steps that move more with the "
        "prediction (k, or k2: the same change of it at every step).",
        panel=_LOSS,
        shown_default="none for scenes; otherwise k2",
    )
    """The factor is k_med/k_t or its square, which gives the band's edge the same meaning at every step
    (`ppod_train.step.step_weight`). None: chosen for the model."""
    pull_back: float = _by_objective(
        0.0,
        "Force that leads steps outside the band back to it, in units of a pair's own; 0 is Eq. 10.",
        metavar="X",
        min=0,
    )
    kl_weight: float = _by_objective(
        0.0,
        "Weight of the closed-form KL to the reference, averaged over steps.",
        metavar="X",
        min=0,
    )
    """Any value but 0 costs one more forward pass."""
    reward_temperature: float = _by_objective(
        1.0,
        "prdp: the reward difference that is one unit of the logit. sft: the standardised reward that weighs e "
        "times as much.",
        metavar="X",
        above=0,
    )
    best_of: int = _by_objective(
        8, "sft-best trains on the best of every so many images.", metavar="K", min=2, shown_default="8"
    )
    nft_beta: float = _by_objective(
        1.0,
        "diffusion-nft: its β; the best policy differs from the one that made the data by a step in proportion to 1/β.",
        metavar="X",
        above=0,
        shown_default="1",
    )
    timesteps_per_update: int | None = option(
        None,
        "Train on a random S of the T timesteps a step: cheaper, and an approximation.",
        panel=_LOSS,
        metavar="S",
        shown_default="all, which is exact",
        min=1,
    )
    """The sum over the subset is scaled by T/S. Pairs then count too equally, the more so the larger
    dpo_beta·log_ratio_clip is."""
    trained_steps: str | None = option(
        None,
        "Train on the steps A to B - 1 of the chain alone, 0 the noisiest.",
        panel=_LOSS,
        metavar="A:B",
        shown_default="all that are stored and have noise",
    )
    """An image is decided early, and the last steps have much of the gradient's noise. timesteps_per_update is a subset
    of these steps."""
    lora_rank: int | None = option(
        None,
        "Rank of the LoRA on the attention projections; 0 trains all weights.",
        panel=_OPTIMIZER,
        metavar="R",
        shown_default="8; with --start that of its policy",
        min=0,
    )
    learning_rate: float | None = option(
        None,
        "AdamW's.",
        panel=_OPTIMIZER,
        metavar="X",
        shown_default="0.003 for scenes; otherwise 1e-4 or 2e-4, by the model, and a hundredth of that with "
        "--lora-rank 0",
        above=0,
    )
    """None: chosen for the model. For all weights (lora_rank 0) of larger models than `scenes` a hundredth of that."""
    lr_scheduler: Literal["constant", "linear", "cosine"] | None = option(
        None,
        "Learning rate over the run: constant, or falling to 0 along a line or half a cosine.",
        panel=_OPTIMIZER,
        shown_default="constant; linear for an online run",
    )
    """As in diffusers. The stages of an online run share one schedule. A run whose rate falls has a fixed length."""
    lr_warmup_steps: int = option(
        0, "Steps in which the learning rate rises from 0.", panel=_OPTIMIZER, metavar="N", min=0
    )
    weight_decay: float = option(0.0, "AdamW's.", panel=_OPTIMIZER, metavar="X", min=0)
    ema_decay: float = option(
        0.0,
        "The policy is the moving average of the trained weights, with this decay; 0 turns averaging off.",
        panel=_OPTIMIZER,
        metavar="X",
        min=0,
        below=1,
    )
    """An update keeps this share of the average. The next stage of an online run starts from the average: with 0.99
    and 50 updates it starts with a quarter to a third of what the stage has changed."""
    max_grad_norm: float = option(
        1.0, "A larger gradient is scaled down to it.", panel=_OPTIMIZER, metavar="X", above=0
    )
    num_train_steps: int = option(200, "Optimizer steps, at most.", panel=_OPTIMIZER, metavar="N", min=1)
    pairs_per_step: int = option(
        16,
        "Pairs in one optimizer step; twice as many trajectories for an objective without pairs.",
        panel=_OPTIMIZER,
        metavar="P",
        min=1,
    )
    """The loss of a step is their mean. The network is called once for each trajectory among them."""
    seed: int = option(
        0,
        "Order of the pairs, timestep subsets, initial LoRA weights, validation noise.",
        panel=_OPTIMIZER,
        metavar="SEED",
        min=0,
    )
    batch_size: int | None = option(
        None,
        "Evaluations in one network call.",
        panel=_COMPUTE,
        metavar="N",
        shown_default="the data set's, so that replay is exact",
        min=1,
    )
    gradient: Literal["auto", "one-pass", "two-pass"] = option(
        "auto",
        "auto, one-pass (keep the whole graph) or two-pass (a chunk at a time); the gradient is the same.",
        panel=_COMPUTE,
        metavar="HOW",
    )
    """auto takes one-pass if the graph fits into max_graph_gib and most steps are inside the band."""
    max_graph_gib: float | None = option(
        None,
        "Memory for a graph: of the whole update in one pass, or of a chunk.",
        panel=_COMPUTE,
        metavar="GIB",
        shown_default="a third of a GPU's, 4 on a CPU",
        above=0,
    )
    """A chunk of two passes holds one evaluation at least."""
    gradient_checkpointing: bool = option(
        False,
        "Compute inner activations again in the backward pass: a fraction of the memory, a third more time.",
        panel=_COMPUTE,
    )
    torch_compile: bool = option(
        False,
        "Compile the network's blocks: a minute or more at first, then faster steps.",
        panel=_COMPUTE,
    )
    """For training alone: the bytes of a data set depend on no compiler. The replay before training is compiled."""
    drift_samples: int = option(
        8,
        "Pairs whose trajectories are replayed before training, to compare with the stored numbers.",
        panel=_COMPUTE,
        metavar="N",
        min=1,
    )
    eval_every: int = option(
        40,
        "Steps between evaluations on validation noise; 0 for none, which keeps the last policy.",
        panel=_KEEPING,
        metavar="N",
        min=0,
    )
    """The best policy by mean reward is kept."""
    eval_images_per_prompt: int = option(
        64, "Images of each prompt in an evaluation.", panel=_KEEPING, metavar="N", min=1
    )
    eval_prompts: tuple[str, ...] | None = option(
        None,
        "File with the prompts of the evaluations, in any form that --prompts of ppod-gen reads.",
        panel=_KEEPING,
        metavar="FILE",
        shown_default="the trained ones",
        is_prompt_file=True,
    )
    check_reward: str | None = option(
        None,
        "Second reward model, never trained on, that shows whether the policy exploits the reward; none to skip.",
        panel=_KEEPING,
        metavar="NAME",
        shown_default="scenes-check for scenes, else none",
    )
    stop_when: Literal["exploited"] | None = option(
        None,
        "exploited: stop at an evaluation whose images show that the policy exploits the reward.",
        panel=_KEEPING,
        metavar="WHAT",
        shown_default="never",
    )
    """The rule: docs/metrics.md."""
    patience: int = option(
        3,
        "Stop after this many evaluations without a better one; 0 for never.",
        panel=_KEEPING,
        metavar="N",
        min=0,
    )
    report_to: Literal["tensorboard", "wandb", "trackio", "mlflow", "none"] = option(
        "tensorboard",
        "Tracker of metrics, evaluations and samples: tensorboard, wandb, trackio, mlflow or none.",
        panel=_KEEPING,
        metavar="TRACKER",
    )
    """metrics.jsonl and evals/ are written in any case. Only the default needs no extra."""
    checkpoint_every: int = option(
        40, "Steps between checkpoints to resume from.", panel=_KEEPING, metavar="N", min=1
    )
    """A policy that is the best so far has a checkpoint of its own."""

    def __post_init__(self) -> None:
        """Fill in the defaults of the objective. Raises ConfigError for an unknown objective."""
        defaults = _objective(self.objective).defaults
        for one in fields(self):
            if getattr(self, one.name) is None:
                value = defaults.get(one.name, one.metadata.get(_USUAL))
                object.__setattr__(self, one.name, value)

    @property
    def graph_limit(self) -> float:
        """max_graph_gib in bytes; 4 GiB if it was neither given nor chosen for a device."""
        return (4.0 if self.max_graph_gib is None else self.max_graph_gib) * 2**30

    @property
    def rank(self) -> int:
        """lora_rank, or its default."""
        return DEFAULT_RANK if self.lora_rank is None else self.lora_rank

    @property
    def clip(self) -> float:
        """log_ratio_clip, once it was given or chosen for the model."""
        assert self.log_ratio_clip is not None
        return self.log_ratio_clip

    def loss_options(self, timestep_scale: float = 1.0) -> "LossOptions":
        """Return what the loss function reads."""
        from ppod_train.objectives.targets import LossOptions

        names = [one.name for one in fields(LossOptions) if one.name != "timestep_scale"]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        options = LossOptions(timestep_scale=timestep_scale, **given)
        return replace(options, clip_anchor="stage") if _objective(self.objective).clips_at_stage else options

    def validate(self) -> None:
        """Raise ConfigError, naming the option, for a value outside its range or one that the objective ignores."""
        self._refuse_unread()
        if self.report_to not in ("tensorboard", "none") and find_spec(self.report_to) is None:
            raise ConfigError(
                f"report_to {self.report_to} needs the package {self.report_to}, which is not installed: "
                f"pip install 'ppod[{self.report_to}]'"
            )
        if self.pull_back and self.log_ratio_clip is not None and not math.isfinite(self.log_ratio_clip):
            raise ConfigError("pull_back leads back to a band: give a finite log_ratio_clip")
        # __post_init__ checked the objective, against a table that a user may extend.
        check_options(self, checked=("objective",))
        step_range(self.trained_steps)

    def _refuse_unread(self) -> None:
        """Raise ConfigError for an option that was changed and that the objective does not read."""
        objective = _objective(self.objective)
        usual = {
            one.name: one.metadata.get(_USUAL)
            for one in fields(self)
            if one.metadata["option"].panel == _LOSS
        }
        for name, plain in usual.items():
            every = name in ("objective", "kl_weight", "timesteps_per_update", "trained_steps")
            if not every and name not in objective.reads and getattr(self, name) != plain:
                raise ConfigError(
                    f"objective {self.objective} does not read {name}: leave it out; it reads "
                    f"{', '.join(sorted(objective.reads))}"
                )
        if self.kl_weight and objective.on_final_latents and objective.compares_with == "reference":
            raise ConfigError(
                f"objective {self.objective} does not read kl_weight: its loss is relative to the reference already"
            )


def step_range(steps: str | None) -> range | None:
    """Return A:B as a range of chain steps; None for all. Raises ConfigError unless A is below B."""
    if steps is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,6})", steps)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f"trained_steps is {steps!r}: write A:B with A below B, such as 3:11")
    return range(int(match[1]), int(match[2]))


def _objective(name: str) -> "Objective":
    from ppod_train.objectives import OBJECTIVES

    if name not in OBJECTIVES:
        raise ConfigError(f"objective {name} is unknown: {', '.join(OBJECTIVES)} are known")
    return OBJECTIVES[name]
