"""The data set toolkit: make, score, pair, check and share data sets of denoising trajectories.

import ppod_data

model = ppod_data.load_model("scenes")
spec = ppod_data.build_spec(model, ["a dog on the moon"])
ppod_data.generate("data", spec, model)
ppod_data.score("data", "scenes")
ppod_data.rank_pairs("data", "scenes")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppod_data.dataset.dataset import Dataset
    from ppod_data.diffusion.models.model import load_model
    from ppod_data.errors import PpodError
    from ppod_data.format.spec import GenerationSpec
    from ppod_data.format.trajectory import Trajectory
    from ppod_data.generation.build_spec import build_spec
    from ppod_data.generation.sampling_settings import SamplingSettings
    from ppod_data.labels.settings import ImportOptions
    from ppod_data.library.checking import verify
    from ppod_data.library.generating import generate
    from ppod_data.library.labelling import agreement, import_labels
    from ppod_data.library.pairing import rank_pairs
    from ppod_data.library.scoring import score
    from ppod_data.library.sharing import pull, push
    from ppod_data.pairs.reward_sum import RewardSum
    from ppod_data.rewards import load_reward

__all__ = [
    "Dataset",
    "GenerationSpec",
    "ImportOptions",
    "PpodError",
    "RewardSum",
    "SamplingSettings",
    "Trajectory",
    "agreement",
    "build_spec",
    "generate",
    "import_labels",
    "load_model",
    "load_reward",
    "pull",
    "push",
    "rank_pairs",
    "score",
    "verify",
]

_MODULES = {
    "Dataset": "dataset.dataset",
    "GenerationSpec": "format.spec",
    "ImportOptions": "labels.settings",
    "PpodError": "errors",
    "RewardSum": "pairs.reward_sum",
    "SamplingSettings": "generation.sampling_settings",
    "Trajectory": "format.trajectory",
    "agreement": "library.labelling",
    "build_spec": "generation.build_spec",
    "generate": "library.generating",
    "import_labels": "library.labelling",
    "load_model": "diffusion.models.model",
    "load_reward": "rewards",
    "pull": "library.sharing",
    "push": "library.sharing",
    "rank_pairs": "library.pairing",
    "score": "library.scoring",
    "verify": "library.checking",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that importing the package needs neither torch nor pyarrow."""
    if name == "__version__":
        return import_module("importlib.metadata").version("ppod")
    if name in _MODULES:
        return getattr(import_module(f"ppod_data.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
