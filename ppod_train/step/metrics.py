"""Metrics of a training step, a pure function of its log-ratios.

Shapes: U trajectories, T trained steps, P pairs.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from ppod_train.data.batches import TrainingBatch
from ppod_train.objectives.clip import band_centre, clipped_log_ratio
from ppod_train.objectives.targets import LossOptions, Targets
from ppod_train.step.gradient import Gradient


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One line of metrics.jsonl.

    Log-ratios are log π − log π_ref, averaged over latent dimensions, times the step's weight. For an objective that
    reads x_0 alone they are the differences of its scores.
    """

    step: int
    """Optimizer steps done, this one included."""
    loss: float
    """Of this step's batch, before its update; ln 2 (ppod) or 1/4 (ppod-mse) where policy = reference."""
    preference_accuracy: float | None
    """Share of pairs whose predicted preference is on the label's side; a logit of 0 counts half. It says how well
    the policy's likelihoods sort the pairs, not how good its images are. None for an objective without pairs."""
    log_ratio_mean: float
    log_ratio_max: float
    """The largest absolute log-ratio."""
    in_band_share: float
    """Share of log-ratios within the band, which alone get a gradient in the clip mode `paper`."""
    clipped_right: float
    """Share of (pair, side, timestep) outside the band where the loss wants them: chosen above, rejected below. Without
    pairs: of (trajectory, timestep), above where its advantage is positive, below where it is negative."""
    clipped_wrong: float
    """Share outside the band on the other side: in the mode `paper` without gradient although they went the wrong
    way."""
    kl: float | None
    """Mean closed-form KL(π ‖ π_ref) of a step, averaged over latent dimensions; None unless kl_weight is set."""
    kl_estimate: float
    """Estimate of KL(π_ref ‖ π) of a trajectory's trained steps in nats, −N·Σ_t of the mean log-ratio. It is
    unbiased if the reference made the data, since the expectation is over the data's trajectories."""
    largest_logit: float | None
    """The largest absolute logit of the step, η·D with Eq. 10's clip; it cannot pass 2·dpo_beta·T·log_ratio_clip.
    None without pairs."""
    grad_norm: float
    """Of all trained weights together, before clipping to max_grad_norm."""
    learning_rate: float
    gradient_share: float
    """Share of the step's log-ratios that the loss has a gradient for; the others have exactly 0."""
    backward_share: float
    """Share of the network evaluations that were back-propagated."""
    one_pass: bool
    """True if this step evaluated every place once (one pass), false if it made two passes."""
    scale_drops: int
    """How often in the run so far the scale of the backward pass was lowered, because half precision overflowed."""
    seconds: float
    per_timestep: dict[str, list[float]]
    """For each trained step, noisiest first: log_ratio_mean, log_ratio_max, clipped_right, clipped_wrong; and
    `steps`, their places in the chain."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)

    def scalars(self) -> dict[str, float]:
        """Return the numbers for a tracker."""
        values = {k: v for k, v in asdict(self).items() if k not in ("per_timestep", "step")}
        return {k: float(v) for k, v in values.items() if v is not None}


def step_metrics(
    gradient: Gradient,
    batch: TrainingBatch,
    options: LossOptions,
    *,
    step: int,
    grad_norm: float,
    learning_rate: float,
    one_pass: bool,
    scale_drops: int = 0,
    seconds: float,
) -> StepMetrics:
    """Return the metrics of one training step."""
    log_ratios = gradient.log_ratios * batch.step_weights
    targets, clip = batch.targets, options.log_ratio_clip
    centre = band_centre(targets, options)
    accuracy, largest = _of_pairs(log_ratios, targets, options)
    towards = _towards(log_ratios - centre, targets)
    right, wrong = (towards > clip).double(), (towards < -clip).double()
    return StepMetrics(
        step=step,
        loss=gradient.loss,
        preference_accuracy=accuracy,
        log_ratio_mean=float(log_ratios.mean()),
        log_ratio_max=float(log_ratios.abs().max()),
        in_band_share=float(((log_ratios - centre).abs() <= clip).double().mean()),
        clipped_right=float(right.mean()),
        clipped_wrong=float(wrong.mean()),
        kl=gradient.kl,
        kl_estimate=float(
            -batch.latents[0, 0].numel() * options.timestep_scale * gradient.log_ratios.sum(dim=1).mean()
        ),
        largest_logit=largest,
        grad_norm=grad_norm,
        learning_rate=learning_rate,
        gradient_share=float((gradient.weights != 0).double().mean()),
        backward_share=gradient.backward_share,
        one_pass=one_pass,
        scale_drops=scale_drops,
        seconds=seconds,
        per_timestep={
            "steps": batch.step_index.tolist(),
            "log_ratio_mean": log_ratios.mean(dim=0).tolist(),
            "log_ratio_max": log_ratios.abs().amax(dim=0).tolist(),
            "clipped_right": right.mean(dim=0).tolist(),
            "clipped_wrong": wrong.mean(dim=0).tolist(),
        },
    )


def _label_side(targets: Targets) -> torch.Tensor:
    """Return [P], +1 if a pair's label is on the chosen image's side, else −1."""
    return (targets.labels > 0.5).double() * 2 - 1


def _of_pairs(
    log_ratios: torch.Tensor, targets: Targets, options: LossOptions
) -> tuple[float | None, float | None]:
    """Return preference accuracy and the largest logit; None without pairs."""
    if not len(targets.chosen):
        return None, None
    clipped = clipped_log_ratio(log_ratios, options.log_ratio_clip, band_centre(targets, options))
    totals = options.dpo_beta * options.timestep_scale * clipped.sum(dim=1)
    logits = totals[targets.chosen] - totals[targets.rejected]
    agreement = torch.sign(logits) * _label_side(targets)
    return float(((agreement + 1) / 2).mean()), float(logits.abs().max())


def _towards(shift: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Return the shift of each log-ratio from the band's centre, positive in the direction that lowers the loss."""
    if not len(targets.chosen):
        return shift * torch.sign(targets.advantages)
    side = _label_side(targets)[:, None]
    return torch.cat([shift[targets.chosen] * side, -shift[targets.rejected] * side])
