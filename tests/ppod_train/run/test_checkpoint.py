"""A checkpoint or evaluation that the system does not let us read is not called damaged."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ppod_data.errors import DamagedError
from ppod_train.evaluation.files import read_evaluation
from ppod_train.run.checkpoint import load_state, load_weights
from tests.support.refused import as_nobody, public_folder


def weights_of(folder: Path) -> None:
    load_weights(folder, parameters={"a": torch.nn.Parameter(torch.zeros(2))}, average={})


@pytest.mark.parametrize(
    ("name", "read"),
    [("state.json", load_state), ("weights.safetensors", weights_of), ("eval.json", read_evaluation)],
)
def test_no_permission_is_not_damage_to_delete(name: str, read: Callable[[Path], Any]) -> None:
    with public_folder() as folder:
        (folder / "state.json").write_text("{}")
        (folder / "eval.json").write_text("{}")
        save_file({"a": np.zeros(2, np.float32)}, folder / "weights.safetensors")
        os.chmod(folder / name, 0)
        code, line = as_nobody(lambda: read(folder))
    assert code == 1 and line.startswith(f"no permission at {folder / name} (Permission denied): check the")


def test_weights_that_are_missing_or_cut_are_damage(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="is damaged"):
        weights_of(tmp_path)
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "weights.safetensors")
    weights_of(tmp_path)
    os.truncate(tmp_path / "weights.safetensors", 60)
    with pytest.raises(DamagedError, match="is damaged"):
        weights_of(tmp_path)
