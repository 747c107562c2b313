"""The preference-prediction loss of PPOD (paper Eq. 10) and its squared-error form (Table 1).

Shapes: U trajectories, T timesteps, P pairs among the U trajectories.

    D    = Σ_t clip(log π/π_ref (chosen), −ε, ε) − clip(log π/π_ref (rejected), −ε, ε)
    loss = −log σ(η·D)

The sum over timesteps is inside the sigmoid, and the clip is on the *log*-ratio. The paper's Eq. 8 has a misprint (the
chosen image in the denominator of the rejected image); Eq. 10 is correct. Log-probabilities are averages over the N
latent dimensions, so `dpo_beta` is the paper's η·N. Other clip modes: `ppod_train.objectives.clip`.
"""

import torch
from torch.nn.functional import logsigmoid

from ppod_train.objectives.clip import preference_bounds, pull_back_loss
from ppod_train.objectives.targets import LossOptions, Targets


def ppod_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Compute the cross-entropy of the predicted preference σ(η·D) and the label, averaged over pairs (Eq. 10).

    Args:
        log_ratios: log π(x_{t-1} | x_t, c) − log π_ref, fp64 [U, T]; log π is
            `ppod_train.step.log_probs.batch_log_probs`, log π_ref is stored with the data.

    Returns:
        An fp64 scalar; ln 2 if policy = reference. A label of 1 gives exactly Eq. 10.
    """
    lower, upper = preference_bounds(log_ratios, targets, options)
    labels = targets.labels
    entropy = -(labels * logsigmoid(lower) + (1 - labels) * logsigmoid(-upper)).mean()
    return entropy + pull_back_loss(log_ratios, targets, options)


def ppod_mse_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Compute the squared error of the predicted preference σ(η·D), averaged over pairs (Table 1's ablation).

    Args:
        log_ratios: log π − log π_ref, [U, T].

    Returns:
        A scalar; 1/4 if policy = reference and the labels are 0 or 1.
    """
    lower, upper = preference_bounds(log_ratios, targets, options)
    error = torch.maximum(
        (torch.sigmoid(lower) - targets.labels) ** 2, (torch.sigmoid(upper) - targets.labels) ** 2
    )
    return error.mean() + pull_back_loss(log_ratios, targets, options)
