"""What a training step reports, each figure explained. A pure function of the step's log-ratios.

Shapes: U trajectories, T trained steps, P pairs.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from ppod_train.batches import PreferenceBatch
from ppod_train.gradient import Gradient
from ppod_train.objectives.ppod import preference_logits


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One line of metrics.jsonl. Log-ratios are log π − log π_ref, averaged over latent dimensions."""

    step: int
    """Optimizer steps done, this one included."""
    loss: float
    """Of this step's pairs, before its update; ln 2 (ppod) or 1/4 (ppod-mse) where policy = reference."""
    preference_accuracy: float
    """Share of pairs whose predicted preference is on the label's side; a logit of 0 counts half. It says how well
    the policy's likelihoods sort the pairs, not how good its images are."""
    log_ratio_mean: float
    log_ratio_max: float
    """The largest absolute log-ratio."""
    in_band_share: float
    """Share of log-ratios within ± log_ratio_clip, which alone get a gradient."""
    clipped_right: float
    """Share of (pair, side, timestep) outside the band where the loss wants them: chosen above, rejected below."""
    clipped_wrong: float
    """Share outside the band on the other side: without gradient although they went the wrong way."""
    kl_estimate: float
    """Estimate of KL(π_ref ‖ π) of a whole trajectory in nats, −N·Σ_t of the mean log-ratio; it is unbiased where
    the reference made the data, since the expectation is over the data's trajectories."""
    largest_logit: float
    """The largest absolute logit of the step; it cannot pass 2·dpo_beta·T·log_ratio_clip."""
    grad_norm: float
    """Of all trained weights together, before clipping to max_grad_norm."""
    backward_share: float
    """Share of the network evaluations that were back-propagated; the others had a gradient of exactly 0."""
    one_pass: bool
    """Whether this step kept the whole graph (one pass) or made two passes."""
    seconds: float
    per_timestep: dict[str, list[float]]
    """For each trained step, noisiest first: log_ratio_mean, log_ratio_max, clipped_right, clipped_wrong; and
    `steps`, their places in the chain."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def scalars(self) -> dict[str, float]:
        """The numbers for a tracker."""
        return {k: float(v) for k, v in asdict(self).items() if k not in ("per_timestep", "step")}


def step_metrics(
    gradient: Gradient,
    batch: PreferenceBatch,
    *,
    step: int,
    dpo_beta: float,
    log_ratio_clip: float,
    timestep_scale: float,
    grad_norm: float,
    one_pass: bool,
    seconds: float,
) -> StepMetrics:
    """Every figure of one training step."""
    log_ratios = gradient.log_ratios
    dimensions = batch.latents[0, 0].numel()
    logits = preference_logits(
        log_ratios,
        batch.chosen,
        batch.rejected,
        dpo_beta=dpo_beta,
        log_ratio_clip=log_ratio_clip,
        timestep_scale=timestep_scale,
    )
    side = (batch.labels > 0.5).double() * 2 - 1
    agreement = torch.sign(logits) * side
    towards = torch.cat(
        [log_ratios[batch.chosen] * side[:, None], -log_ratios[batch.rejected] * side[:, None]]
    )
    right = (towards > log_ratio_clip).double()
    wrong = (towards < -log_ratio_clip).double()
    return StepMetrics(
        step=step,
        loss=gradient.loss,
        preference_accuracy=float(((agreement + 1) / 2).mean()),
        log_ratio_mean=float(log_ratios.mean()),
        log_ratio_max=float(log_ratios.abs().max()),
        in_band_share=float((log_ratios.abs() <= log_ratio_clip).double().mean()),
        clipped_right=float(right.mean()),
        clipped_wrong=float(wrong.mean()),
        kl_estimate=float(-dimensions * timestep_scale * log_ratios.sum(dim=1).mean()),
        largest_logit=float(logits.abs().max()),
        grad_norm=grad_norm,
        backward_share=gradient.backward_share,
        one_pass=one_pass,
        seconds=seconds,
        per_timestep={
            "steps": batch.step_index.tolist(),
            "log_ratio_mean": log_ratios.mean(dim=0).tolist(),
            "log_ratio_max": log_ratios.abs().amax(dim=0).tolist(),
            "clipped_right": right.mean(dim=0).tolist(),
            "clipped_wrong": wrong.mean(dim=0).tolist(),
        },
    )
