"""The preference-prediction loss of PPOD (paper Eq. 10), and its squared-error form (Table 1).

Shapes: U trajectories, T timesteps, P pairs among the U trajectories.

    D    = Σ_t clip(log π/π_ref (chosen), −ε, ε) − clip(log π/π_ref (rejected), −ε, ε)
    loss = −log σ(η·D)

The sum over timesteps is inside the sigmoid and the clip is on the *log*-ratio. (The paper's Eq. 8 prints the chosen
image in the rejected one's denominator: a misprint; Eq. 10 has it right.) Log-probabilities are averages over the N
latent dimensions, so the code's dpo_beta is the paper's η·N.
"""

import torch
from torch.nn.functional import logsigmoid


def clipped_log_ratio(log_ratios: torch.Tensor, log_ratio_clip: float) -> torch.Tensor:
    """clip(log π/π_ref, −ε, ε), of any shape. Outside the band the gradient is exactly zero, on either side."""
    return log_ratios.clamp(-log_ratio_clip, log_ratio_clip)


def preference_logits(
    log_ratios: torch.Tensor,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    *,
    dpo_beta: float,
    log_ratio_clip: float,
    timestep_scale: float = 1.0,
) -> torch.Tensor:
    """η·D for every pair: a sparse difference of one number a trajectory.

    Args:
        log_ratios: log π − log π_ref of every stochastic step, [U, T].
        chosen, rejected: rows of `log_ratios`, int64 [P].
        timestep_scale: T/S where only S of the T steps are in `log_ratios`; an approximation, since the expectation
            of a sigmoid is not the sigmoid of the expectation.

    Returns:
        [P]; within ± 2·dpo_beta·T·log_ratio_clip.
    """
    totals = clipped_log_ratio(log_ratios, log_ratio_clip).sum(dim=1) * timestep_scale
    return dpo_beta * (totals[chosen] - totals[rejected])


def ppod_loss(
    log_ratios: torch.Tensor,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    labels: torch.Tensor,
    *,
    dpo_beta: float,
    log_ratio_clip: float,
    timestep_scale: float = 1.0,
) -> torch.Tensor:
    """Cross-entropy of the predicted preference σ(η·D) against the label, averaged over pairs (Eq. 10).

    Args:
        labels: the probability that `chosen` is preferred, [P]; 1 gives Eq. 10 to the letter.

    Returns:
        A scalar; ln 2 where policy = reference.
    """
    logits = preference_logits(
        log_ratios,
        chosen,
        rejected,
        dpo_beta=dpo_beta,
        log_ratio_clip=log_ratio_clip,
        timestep_scale=timestep_scale,
    )
    return -(labels * logsigmoid(logits) + (1 - labels) * logsigmoid(-logits)).mean()


def ppod_mse_loss(
    log_ratios: torch.Tensor,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    labels: torch.Tensor,
    *,
    dpo_beta: float,
    log_ratio_clip: float,
    timestep_scale: float = 1.0,
) -> torch.Tensor:
    """Squared error of the predicted preference σ(η·D) against the label, averaged over pairs (Table 1's ablation).

    Returns:
        A scalar; 1/4 where policy = reference and the labels are 0 or 1.
    """
    logits = preference_logits(
        log_ratios,
        chosen,
        rejected,
        dpo_beta=dpo_beta,
        log_ratio_clip=log_ratio_clip,
        timestep_scale=timestep_scale,
    )
    return ((torch.sigmoid(logits) - labels) ** 2).mean()
