"""One file an objective; each is a pure function of the log-ratios of a batch's trajectories.

Every objective has the signature of `ppod_loss`.
"""

from collections.abc import Callable, Mapping

import torch

from ppod_train.objectives.ppod import ppod_loss, ppod_mse_loss

Objective = Callable[..., torch.Tensor]

OBJECTIVES: Mapping[str, Objective] = {"ppod": ppod_loss, "ppod-mse": ppod_mse_loss}
