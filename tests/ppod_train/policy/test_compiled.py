"""`--torch-compile`: the same training within rounding, behind the replay of recorded steps; or one line."""

import json
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ppod_data.diffusion.models.model import load_model
from ppod_data.errors import ConfigError
from ppod_train.policy.compiled import compiled_blocks
from ppod_train.policy.policy import new_layers
from tests.cli.test_families import SAVERS as TRANSFORMERS
from tests.ppod_train.conftest import record
from tests.support.command import run as run_command
from tests.support.pipelines import save_tiny_pipeline, save_tiny_sd3_pipeline, save_tiny_xl_pipeline
from tests.support.training import SETTINGS, run

SAVERS = {"sd-1": save_tiny_pipeline, "sd-xl": save_tiny_xl_pipeline, **TRANSFORMERS}
NO_COMPILER = {"CXX": "/nonexistent/c++"}
CAN_COMPILE = shutil.which("g++") and Path(sysconfig.get_path("include"), "Python.h").exists()


def compiled_modules(network: torch.nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if module._compiled_call_impl is not None]


@pytest.mark.long
@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_every_layer_with_lora_is_in_a_compiled_block(save: Callable[[Path], Path], tmp_path: Path) -> None:
    model = load_model(str(save(tmp_path / "model")))
    trained = new_layers(model.denoiser, model.family.lora_targets, 4)
    assert trained and not compiled_modules(model.denoiser)
    with compiled_blocks(model.denoiser, on=False):
        assert not compiled_modules(model.denoiser)
    with compiled_blocks(model.denoiser, on=True):
        blocks = compiled_modules(model.denoiser)
    assert all(any(name.startswith(f"{block}.") for block in blocks) for name in trained)


def test_a_network_that_names_no_blocks_is_refused() -> None:
    message = "Linear names no blocks to compile: leave out --torch-compile"
    with pytest.raises(ConfigError, match=message), compiled_blocks(torch.nn.Linear(1, 1), on=True):
        pass


@pytest.mark.skipif(not CAN_COMPILE, reason="on a CPU torch.compile needs g++ and Python.h")
@pytest.mark.parametrize(
    ("save", "checkpointing"),
    [
        pytest.param(save_tiny_pipeline, True, marks=pytest.mark.long),
        pytest.param(save_tiny_sd3_pipeline, False, marks=pytest.mark.slow),
    ],
)
def test_a_compiled_run_is_the_plain_one_within_rounding(
    save: Callable[[Path], Path], checkpointing: bool, redness: Any, tmp_path: Path
) -> None:
    """With validation, two passes, and calls of odd sizes."""
    model = save(tmp_path / "model")
    data = tmp_path / "data"
    record(data, load_model(str(model)), guidance_scale=3.0)
    settings = replace(
        SETTINGS, gradient="two-pass", batch_size=5, max_grad_norm=1e9, gradient_checkpointing=checkpointing
    )
    policies, gradients = [], []
    for on in (False, True):
        out = tmp_path / str(on)
        _, steps = run(data, out, model, redness, replace(settings, torch_compile=on))
        policies.append(load_file(out / "policy" / "pytorch_lora_weights.safetensors"))
        gradients.append([step.grad_norm for step in steps])
        assert json.loads((out / "run.json").read_text())["drift"]["overall_p99"] < 1e-6
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-3)
    assert gradients[1] != gradients[0]  # otherwise nothing was compiled
    for name, value in policies[0].items():
        torch.testing.assert_close(policies[1][name], value, rtol=0, atol=1e-3)
    with pytest.raises(ConfigError, match="torch_compile True, not False"):
        run(data, tmp_path / "True", model, redness, replace(settings, num_train_steps=9))


@pytest.mark.long
def test_a_compiler_that_is_missing_is_one_line(recorded: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    options = ["--eval-every", 0, "--torch-compile", "--model", tiny_pipeline, "--pairs", "pairs"]
    failed = run_command(
        *("train", "offline", recorded, "--out", "run", *options),
        cwd=tmp_path,
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"),
        **NO_COMPILER,
    )
    assert failed.code == 2
    assert "torch.compile cannot compile the network (InvalidCxxCompiler" in failed.one_error()
    assert not (tmp_path / "run" / "policy").exists()
