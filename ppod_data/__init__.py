"""The data set toolkit: make, score, pair, check and read data sets of denoising trajectories."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppod_data.dataset.dataset import Dataset
    from ppod_data.format.trajectory import Trajectory

__all__ = ["Dataset", "Trajectory"]


def __getattr__(name: str) -> Any:
    """Import `Dataset` and `Trajectory` when they are first asked for: importing the package stays fast."""
    if name in __all__:
        from ppod_data.dataset import dataset
        from ppod_data.format import trajectory

        return getattr(dataset if name == "Dataset" else trajectory, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
