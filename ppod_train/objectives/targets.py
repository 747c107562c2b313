"""What a loss sees beside the log-ratios: the targets of a batch, and the options that shape it.

Shapes: U trajectories, T timesteps, P pairs among the U trajectories.
"""

from dataclasses import dataclass

import torch

CLIP_ANCHORS = ("reference", "stage")
CLIP_MODES = ("paper", "pessimistic-step", "pessimistic-pair")
STEP_WEIGHTS = ("none", "k", "k2")


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What the trajectories of a batch are trained towards; a loss reads the part that it is defined by."""

    chosen: torch.Tensor
    """int64 [P], trajectories of the batch; P is 0 for a loss of single trajectories."""
    rejected: torch.Tensor
    labels: torch.Tensor
    """[P], the probability that chosen is preferred."""
    margins: torch.Tensor
    """[P], r(chosen) − r(rejected); NaN where people judged."""
    anchors: torch.Tensor
    """[U, T], log π_stage − log π_ref of the policy that made the data; 0 where the reference made it."""
    advantages: torch.Tensor
    """[U, T], how good a trajectory is (`ppod_train.objectives.advantages`); 0 for a loss of pairs."""


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The options of a loss; `ppod_train.settings` explains each."""

    dpo_beta: float = 10.0
    log_ratio_clip: float = 0.01
    clip_anchor: str = "reference"
    clip_mode: str = "paper"
    pull_back: float = 0.0
    reward_temperature: float = 1.0
    timestep_scale: float = 1.0
    """T/S where only S of the T steps are in the batch: an approximation, since the expectation of a sigmoid is not
    the sigmoid of the expectation."""
