"""The clip band and the formula of every clip mode.

Shapes: U trajectories, T timesteps, P pairs. ℓ = log π − log π_ref [U, T], a the band's centre, ε = log_ratio_clip,
c(ℓ) = clip(ℓ, a − ε, a + ε), w and l the chosen and the rejected trajectory of a pair.

    anchor     a = 0 (`reference`: Eq. 10 to the letter), or log π_stage − log π_ref (`stage`: proximal to the policy
               that made the stage's data, as in PRDP, Deng et al. 2024, App. G)
    paper      D = Σ_t c(ℓ_w) − c(ℓ_l)                                                   (Eq. 10)
    pessimistic-step    D = Σ_t min(ℓ_w, c(ℓ_w)) − max(ℓ_l, c(ℓ_l)). A step outside the band on the wrong side keeps
               its gradient (the maximum of PPO's clipped loss, step by step).
    pessimistic-pair    D = min(Σ_t ℓ_w − ℓ_l, Σ_t c(ℓ_w) − c(ℓ_l)). A pair keeps its whole gradient if the clip
               would lower its loss (PRDP's maximum of two losses).
    pull-back  an additional term: λ·dpo_beta·mean_U Σ_t max(0, |ℓ − a| − ε), λ = `pull_back`. Outside the band, where
               Eq. 10 has no gradient, the term pulls back with a constant force. At λ = 1 the force equals the
               gradient of a pair at the start of training.
"""

import torch

from ppod_train.objectives.targets import LossOptions, Targets


def band_centre(targets: Targets, options: LossOptions) -> torch.Tensor:
    """Return a, the centre of the clip band: [U, T]."""
    return targets.anchors if options.clip_anchor == "stage" else torch.zeros_like(targets.anchors)


def clipped_log_ratio(
    log_ratios: torch.Tensor, log_ratio_clip: float, centre: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Return clip(ℓ, a − ε, a + ε) in the shape of `log_ratios`.

    The gradient is exactly zero outside the band, on both sides.
    """
    middle = torch.as_tensor(centre, dtype=log_ratios.dtype, device=log_ratios.device)
    return log_ratios.clamp(middle - log_ratio_clip, middle + log_ratio_clip)


def preference_bounds(
    log_ratios: torch.Tensor, targets: Targets, options: LossOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the lower and the upper bound of η·D for every pair under the clip mode.

    The lower bound enters the loss that favours the chosen image, the upper bound the loss that favours the rejected
    image. Both are equal in the mode `paper`.

    Args:
        log_ratios: log π − log π_ref of every stochastic step, [U, T].

    Returns:
        Two tensors [P]; in the mode `paper` within ± 2·dpo_beta·T·log_ratio_clip (around the anchors' difference).
    """
    clipped = clipped_log_ratio(log_ratios, options.log_ratio_clip, band_centre(targets, options))

    def difference(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        scale = options.dpo_beta * options.timestep_scale
        return scale * (chosen.sum(dim=1)[targets.chosen] - rejected.sum(dim=1)[targets.rejected])

    if options.clip_mode == "pessimistic-step":
        low, high = torch.minimum(log_ratios, clipped), torch.maximum(log_ratios, clipped)
        return difference(low, high), difference(high, low)
    paper = difference(clipped, clipped)
    if options.clip_mode == "pessimistic-pair":
        unclipped = difference(log_ratios, log_ratios)
        return torch.minimum(unclipped, paper), torch.maximum(unclipped, paper)
    return paper, paper


def band_regions(log_ratios: torch.Tensor, centre: torch.Tensor, options: LossOptions) -> torch.Tensor:
    """Return the region of each log-ratio: 0 inside the band, 1 above, 2 below; -1 outside if nothing acts there.

    ∂loss/∂ℓ_ut of every clip mode is the same number for all steps of a trajectory in one region.

    Args:
        log_ratios: ℓ of any evaluations, of any shape.
        centre: a of the same evaluations.
    """
    above = log_ratios > centre + options.log_ratio_clip
    below = log_ratios < centre - options.log_ratio_clip
    regions = above.long() + 2 * below.long()
    if options.clip_mode == "paper" and options.pull_back == 0:
        return torch.where(regions > 0, -1, regions)
    return regions


def pull_back_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Return λ·dpo_beta·mean over trajectories of Σ_t max(0, |ℓ − a| − ε), a scalar.

    The value is 0 if every step is in the band.
    """
    if options.pull_back == 0:
        return log_ratios.new_zeros(())
    excess = (log_ratios - band_centre(targets, options)).abs() - options.log_ratio_clip
    weight = options.pull_back * options.dpo_beta * options.timestep_scale
    return weight * excess.clamp(min=0).sum(dim=1).mean()
