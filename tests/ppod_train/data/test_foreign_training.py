"""Every objective of pairs trains on images that no policy made, and starts exactly at the reference."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import load_model
from ppod_data.labels.foreign import build_dataset
from ppod_data.labels.importing import import_labels
from ppod_data.scoring.score import score
from ppod_train.evaluation.files import read_evaluation
from ppod_train.library.comparing import compare
from ppod_train.settings import TrainSettings
from tests.ppod_train.conftest import Redness
from tests.support.foreign_cases import rows, write_parquet
from tests.support.pipelines import save_tiny_pipeline, save_tiny_sd3_pipeline, save_tiny_xl_pipeline
from tests.support.training import run

SAVERS: Mapping[str, Callable[[Path], Path]] = {
    "sd-1": save_tiny_pipeline,
    "sd-2": partial(save_tiny_pipeline, prediction_type="v_prediction", rescale_betas_zero_snr=True),
    "sd-xl": save_tiny_xl_pipeline,
}
SETTINGS = {"num_train_steps": 2, "pairs_per_step": 5, "lora_rank": 4, "eval_every": 0, "checkpoint_every": 2}
START = {"ppod": math.log(2), "ppod-mse": 0.25, "diffusion-dpo": math.log(2)}


CASES = [("sd-1", 1.0), ("sd-1", 3.0), ("sd-2", 1.0), ("sd-xl", 1.0)]
"""Kind of pipeline, and guidance scale of the policy."""


@pytest.fixture(scope="module", params=CASES, ids=str)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of a pipeline, and of a data set of nine given images with six labels and five pairs."""
    kind, guidance_scale = request.param
    pipeline = SAVERS[kind](tmp_path_factory.mktemp("models") / kind)
    folder = tmp_path_factory.mktemp("foreign")
    file = write_parquet(folder / "votes.parquet", rows())
    build_dataset(
        folder / "data",
        file,
        load_model(str(pipeline)),
        format="pickapic",
        num_inference_steps=4,
        batch_size=10,
        guidance_scale=guidance_scale,
    )
    dataset = Dataset.open(folder / "data")
    import_labels(dataset, file, format="pickapic", name="pairs")
    score(dataset, Redness(), name="redness")
    return pipeline, folder / "data"


@pytest.mark.parametrize("objective", [*START, "dpok"])
def test_it_trains_from_the_reference(made: tuple[Path, Path], tmp_path: Path, objective: str) -> None:
    """All five pairs in one batch: the trainer's replay, at another batch than the recording's, still agrees."""
    pipeline, data = made
    settings = TrainSettings(objective=objective, **SETTINGS)
    _, steps = run(data, tmp_path / "run", pipeline, None, settings)
    assert len(steps) == 2
    assert steps[0].log_ratio_max < 1e-5
    if objective in START:
        assert steps[0].loss == pytest.approx(START[objective], abs=2e-3)
    assert steps[0].grad_norm > 0
    assert (tmp_path / "run" / "policy" / "pytorch_lora_weights.safetensors").is_file()


def test_a_flow_model_is_judged_by_images_without_residual_noise(tmp_path: Path) -> None:
    """While it trains and afterwards, by the sampler's own window instead of that of the given images."""
    pipeline = save_tiny_sd3_pipeline(tmp_path / "model")
    file = write_parquet(tmp_path / "votes.parquet", rows())
    options = {"num_inference_steps": 10, "batch_size": 10, "height": 16, "width": 16}
    build_dataset(tmp_path / "data", file, load_model(str(pipeline)), format="pickapic", **options)
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.spec.window == "0:10"
    import_labels(dataset, file, format="pickapic", name="pairs")
    settings = TrainSettings(
        objective="ppod", **SETTINGS | {"num_train_steps": 1, "eval_every": 1, "eval_images_per_prompt": 2}
    )
    run(tmp_path / "data", tmp_path / "run", pipeline, Redness(), settings)
    for step in (0, 1):
        evaluation = read_evaluation(tmp_path / f"run/evals/step-{step:06d}")
        assert evaluation.settings.noisy_steps == "0:8"
    comparison = compare(
        tmp_path / "run", tmp_path / "out", reward=Redness(), device="cpu", num_images_per_prompt=2
    )
    assert comparison.before is not None
    assert comparison.before.settings.noisy_steps == comparison.after.settings.noisy_steps == "0:8"
