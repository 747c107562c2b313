"""The numerator of the paper's log-ratio: log π of a batch's recorded steps, in the trainer's numerics.

From Eq. 10 to the Gaussian:

    ppod_train.objectives.ppod.ppod_loss            −log σ(η·D), D a sum of clipped log π(x_{t-1} | x_t, c) − log π_ref
    ppod_train.step.log_probs.batch_log_probs       log π(x_{t-1} | x_t, c) of (trajectory, trained step)
    ppod_data.diffusion.policy.Policy.log_prob      μ_θ(x_t, t, c) under guidance, and the density of x_{t-1}
    ppod_data.diffusion.gaussian.log_prob           N(x_{t-1}; μ, σ_t² I)

log π_ref, the denominator, is stored with the data (`TrainingBatch.reference_log_probs`).

Shapes: E evaluations.
"""

import torch

from ppod_data.diffusion.gaussian import kl_divergence, log_prob
from ppod_data.diffusion.policy import Policy
from ppod_train.data.batches import TrainingBatch
from ppod_train.step.gradient import Evaluate, StepValues


def batch_log_probs(policy: Policy, batch: TrainingBatch, *, kl_to: Policy | None = None) -> Evaluate:
    """Return log π(x_{t-1} | x_t, c) of a batch's recorded steps as a differentiable function.

    The function takes rows, int64 [E] (trajectories), and columns, int64 [E] (trained steps), and returns fp64 [E].

    Args:
        kl_to: a fixed policy; the function then also returns KL(π ‖ kl_to) of each step, fp64 [E].
    """

    def call(rows: torch.Tensor, columns: torch.Tensor) -> StepValues:
        x_t, x_prev, step, prompt = batch.transition(rows, columns)
        if kl_to is None:
            return StepValues(policy.log_prob(x_t, x_prev, step, prompt))
        with torch.no_grad():
            fixed = kl_to.mean(x_t, step, prompt)
        mean = policy.mean(x_t, step, prompt)  # both values are of one network call
        return StepValues(
            log_prob(policy.schedule, step, mean, x_prev), kl_divergence(policy.schedule, step, mean, fixed)
        )

    return call
