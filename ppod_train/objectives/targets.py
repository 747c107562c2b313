"""Inputs of a loss besides the log-ratios: the targets of a batch and the options.

Shapes: U trajectories, T timesteps, P pairs among the U trajectories.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Training targets of a batch; each loss reads the fields in its formula."""

    chosen: torch.Tensor
    """int64 [P], row numbers of trajectories in the batch; P is 0 for a loss of single trajectories."""
    rejected: torch.Tensor
    """int64 [P], as `chosen`."""
    labels: torch.Tensor
    """[P], probability that `chosen` is preferred."""
    margins: torch.Tensor
    """[P], r(chosen) − r(rejected); NaN for people's labels."""
    anchors: torch.Tensor
    """[U, T], log π_stage − log π_ref of the policy that made the data; 0 if the reference made the data."""
    advantages: torch.Tensor
    """[U, T], from `ppod_train.objectives.advantages`; 0 for a loss of pairs."""


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Options of a loss; `ppod_train.settings` explains each."""

    dpo_beta: float = 10.0
    log_ratio_clip: float = 0.01
    clip_anchor: str = "reference"
    clip_mode: str = "paper"
    pull_back: float = 0.0
    reward_temperature: float = 1.0
    nft_beta: float = 1.0
    timestep_scale: float = 1.0
    """T/S if only S of the T steps are in the batch. An approximation, because the expectation of a sigmoid is not the
    sigmoid of the expectation."""
