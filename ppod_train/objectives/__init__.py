"""Table of objectives: each loss with the options it reads and the inputs it needs.

Every loss is a pure function with the signature of `ppod_loss`: (log-ratios [U, T], targets, options) -> scalar.

Example:
    loss = OBJECTIVES["ppod"].loss(log_ratios, targets, LossOptions(dpo_beta=10.0))
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from ppod_train.objectives.advantages import (
    Advantages,
    above_value_baseline,
    best_of_k,
    reward_weights,
    standardised,
)
from ppod_train.objectives.awm import awm_loss, awm_score
from ppod_train.objectives.denoised import Score
from ppod_train.objectives.diffusion_nft import nft_loss, nft_score
from ppod_train.objectives.policy_gradient import ddpo_loss, dpok_loss
from ppod_train.objectives.ppod import ppod_loss, ppod_mse_loss
from ppod_train.objectives.prdp import prdp_loss
from ppod_train.objectives.sft import sft_loss
from ppod_train.objectives.stepwise import d3po_loss, denoising_score, diffusion_dpo_loss
from ppod_train.objectives.targets import LossOptions, Targets

Loss = Callable[[torch.Tensor, Targets, LossOptions], torch.Tensor]
Coupling = Literal["evaluation", "step", "trajectory"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A loss with its inputs and defaults."""

    loss: Loss
    reads: frozenset[str]
    """Names of the loss options and settings that the loss reads; any other option is rejected."""
    advantages: Advantages | None = None
    """Function from rewards to advantages, for a loss of single trajectories; None for a loss of pairs."""
    needs: frozenset[str] = frozenset()
    """Columns of the pair table that must have a value in every row."""
    couples: Coupling = "trajectory"
    """What ∂loss/∂ℓ_ut depends on beside ℓ_ut: nothing (`evaluation`), the other log-ratios of step t (`step`), or all
    log-ratios of the pairs of trajectory u (`trajectory`)."""
    score: Score | None = None
    """Value of a prediction from noised x_0, for a loss that reads x_0 alone; None for a loss of recorded chains."""
    compares_with: Literal["reference", "maker"] = "reference"
    """The policy that a score is relative to: the reference, or the policy that made the data."""
    clips_at_stage: bool = False
    """True if the clipped ratio is to the policy that made the data, whatever `clip_anchor` is."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings that replace the defaults of ppod; every objective's values come from the same small search."""

    @property
    def on_pairs(self) -> bool:
        """Return True for a loss of pairs."""
        return self.advantages is None

    @property
    def on_final_latents(self) -> bool:
        """Return True for a loss of predictions from noised x_0 instead of steps of the recorded chain."""
        return self.score is not None


_SUM_OF_STEPS = frozenset(
    {"dpo_beta", "log_ratio_clip", "clip_anchor", "clip_mode", "pull_back", "step_weight"}
)

OBJECTIVES: Mapping[str, Objective] = {
    "ppod": Objective(loss=ppod_loss, reads=_SUM_OF_STEPS),
    "ppod-mse": Objective(loss=ppod_mse_loss, reads=_SUM_OF_STEPS),
    "prdp": Objective(
        loss=prdp_loss,
        reads=_SUM_OF_STEPS | {"reward_temperature"},
        needs=frozenset({"margins"}),
        defaults={"clip_anchor": "stage", "clip_mode": "pessimistic-pair"},
    ),
    "d3po": Objective(
        couples="step", loss=d3po_loss, reads=frozenset({"dpo_beta", "log_ratio_clip", "step_weight"})
    ),
    "diffusion-dpo": Objective(
        loss=diffusion_dpo_loss,
        couples="step",
        reads=frozenset({"dpo_beta"}),
        score=denoising_score,
        defaults={"dpo_beta": 2000.0},
    ),
    "diffusion-nft": Objective(
        loss=nft_loss,
        couples="evaluation",
        reads=frozenset({"nft_beta"}),
        advantages=standardised,
        score=nft_score,
        compares_with="maker",
    ),
    "awm": Objective(
        loss=awm_loss,
        couples="evaluation",
        reads=frozenset({"log_ratio_clip"}),
        advantages=standardised,
        score=awm_score,
        compares_with="maker",
        defaults={"log_ratio_clip": 0.03},
    ),
    "ddpo": Objective(
        loss=ddpo_loss,
        couples="evaluation",
        reads=frozenset({"log_ratio_clip"}),
        advantages=standardised,
        clips_at_stage=True,
    ),
    "dpok": Objective(
        loss=dpok_loss,
        couples="evaluation",
        reads=frozenset({"log_ratio_clip"}),
        advantages=above_value_baseline,
        clips_at_stage=True,
        defaults={"kl_weight": 0.01},
    ),
    "sft": Objective(
        couples="evaluation",
        loss=sft_loss,
        reads=frozenset({"reward_temperature"}),
        advantages=reward_weights,
    ),
    "sft-best": Objective(
        couples="evaluation", loss=sft_loss, reads=frozenset({"best_of"}), advantages=best_of_k
    ),
}
