"""Settings and fixtures of all tests."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

from tests.pipelines import save_tiny_pipeline

if TYPE_CHECKING:
    from ppod_data.diffusion.model import DiffusionModel

torch.set_num_threads(1)
settings.register_profile("ppod", deadline=None)  # shared machines: no test depends on an absolute time
settings.load_profile("ppod")


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random StableDiffusionPipeline."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_pipeline: Path) -> "DiffusionModel":
    """The tiny pipeline, loaded."""
    from ppod_data.diffusion.model import load_model

    return load_model(str(tiny_pipeline))
