"""The trainer: preference optimization of a diffusion model on recorded denoising trajectories.

import ppod_train

run = ppod_train.train("data", "run", ppod_train.TrainSettings(num_train_steps=50), reward="scenes")
model = ppod_train.load_policy(run.policy)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppod_train.evaluation.evaluate import evaluate
    from ppod_train.evaluation.settings import EvalSettings
    from ppod_train.objectives import OBJECTIVES
    from ppod_train.online.settings import OnlineSettings
    from ppod_train.report import write_report
    from ppod_train.run.library import load_policy, train
    from ppod_train.settings import TrainSettings

__all__ = [
    "OBJECTIVES",
    "EvalSettings",
    "OnlineSettings",
    "TrainSettings",
    "evaluate",
    "load_policy",
    "train",
    "write_report",
]

_MODULES = {
    "OBJECTIVES": "objectives",
    "EvalSettings": "evaluation.settings",
    "OnlineSettings": "online.settings",
    "TrainSettings": "settings",
    "evaluate": "evaluation.evaluate",
    "load_policy": "run.library",
    "train": "run.library",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package stays fast."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
