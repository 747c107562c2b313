"""The trainer: preference optimization of a diffusion model on recorded denoising trajectories.

import ppod_train

run = ppod_train.train("data", "run", ppod_train.TrainSettings(num_train_steps=50))
comparison = ppod_train.compare(run.policy, "result")
model = ppod_train.load_policy(run.policy)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppod_data.diffusion.models.source import ModelSource
    from ppod_train.data.training_data import DataSource
    from ppod_train.evaluation.evaluate import evaluate
    from ppod_train.evaluation.settings import EvalSettings
    from ppod_train.library.comparing import compare
    from ppod_train.library.online import train_online
    from ppod_train.library.policies import load_policy
    from ppod_train.library.training import train
    from ppod_train.objectives import OBJECTIVES
    from ppod_train.online.settings import OnlineSettings
    from ppod_train.report import write_report
    from ppod_train.settings import TrainSettings

__all__ = [
    "OBJECTIVES",
    "DataSource",
    "EvalSettings",
    "ModelSource",
    "OnlineSettings",
    "TrainSettings",
    "compare",
    "evaluate",
    "load_policy",
    "train",
    "train_online",
    "write_report",
]

_MODULES = {
    "OBJECTIVES": "ppod_train.objectives",
    "DataSource": "ppod_train.data.training_data",
    "EvalSettings": "ppod_train.evaluation.settings",
    "ModelSource": "ppod_data.diffusion.models.source",
    "OnlineSettings": "ppod_train.online.settings",
    "TrainSettings": "ppod_train.settings",
    "compare": "ppod_train.library.comparing",
    "evaluate": "ppod_train.evaluation.evaluate",
    "load_policy": "ppod_train.library.policies",
    "train": "ppod_train.library.training",
    "train_online": "ppod_train.library.online",
    "write_report": "ppod_train.report",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package stays fast."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
