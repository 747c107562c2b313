"""Targets of made-up batches: what a loss sees, without a network or a data set."""

from collections.abc import Sequence

import torch

from ppod_train.objectives.targets import Targets

Numbers = Sequence[float] | torch.Tensor
Rows = Sequence[Sequence[float]] | torch.Tensor


def tensor(values: Numbers | Rows) -> torch.Tensor:
    """The values in fp64, detached."""
    return torch.as_tensor(values, dtype=torch.float64).detach().clone()


def make_targets(
    shape: Sequence[int],
    *,
    chosen: Sequence[int] = (),
    rejected: Sequence[int] = (),
    labels: Numbers | None = None,
    margins: Numbers | None = None,
    anchors: Rows | None = None,
    advantages: Rows | None = None,
) -> Targets:
    """Targets of [U, T] log-ratios: labels of 1, margins of 1, anchors and advantages of 0 unless given."""
    return Targets(
        chosen=torch.tensor(chosen, dtype=torch.int64),
        rejected=torch.tensor(rejected, dtype=torch.int64),
        labels=tensor([1.0] * len(chosen) if labels is None else labels),
        margins=tensor([1.0] * len(chosen) if margins is None else margins),
        anchors=tensor(torch.zeros(*shape) if anchors is None else anchors),
        advantages=tensor(torch.zeros(*shape) if advantages is None else advantages),
    )


def random_case(seed: int, scale: float) -> tuple[torch.Tensor, Targets]:
    """Log-ratios of 5 trajectories and 7 steps, 6 pairs that share trajectories, everything random and soft."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    targets = make_targets(
        (5, 7),
        chosen=[0, 0, 1, 3, 4, 2],
        rejected=[1, 2, 2, 0, 1, 4],
        labels=torch.rand(6, generator=generator, dtype=torch.float64),
        margins=normal(6),
        anchors=scale * normal(5, 7),
        advantages=normal(5, 7),
    )
    return scale * normal(5, 7), targets
