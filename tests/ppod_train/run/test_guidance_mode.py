"""A run whose data were sampled with guidance in two calls never makes one of both halves, which takes twice the
memory."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_train.library.comparing import compare
from tests.ppod_train.conftest import Redness
from tests.support.models import load_again
from tests.support.network_rows import network_rows
from tests.support.training import SETTINGS, run


@pytest.mark.parametrize(("mode", "most"), [("sequential", 8), ("batched", 16)])
def test_a_run_and_the_evaluations_of_its_policy_keep_the_guidance_mode_of_the_data(
    tiny_pipeline: Path, record_dataset: Callable[..., Dataset], tmp_path: Path, mode: str, most: int
) -> None:
    options = {"guidance_scale": 3.0, "guidance_mode": mode, "batch_size": 8}
    dataset = record_dataset(tmp_path / "data", load_again(tiny_pipeline), **options)
    settings = replace(SETTINGS, num_train_steps=1, eval_every=1)  # evaluates 8 images, a whole batch
    with network_rows() as rows:
        run(dataset.root, tmp_path / "run", tiny_pipeline, Redness(), settings)
    assert max(rows) == most
    with network_rows() as rows:
        compare(
            tmp_path / "run",
            tmp_path / "out",
            reward=Redness(),
            device="cpu",
            num_images_per_prompt=4,
            batch_size=8,
        )
    assert rows == {most}


def test_a_run_that_evaluated_in_one_call_goes_on_in_two(
    tiny_pipeline: Path, record_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    """The evaluations of earlier versions were batched, and their records and run.json name no mode."""
    options = {"guidance_scale": 3.0, "guidance_mode": "sequential"}
    dataset = record_dataset(tmp_path / "data", load_again(tiny_pipeline), **options)
    settings = replace(SETTINGS, num_train_steps=1, eval_every=1, lr_scheduler="constant")
    run(dataset.root, tmp_path / "run", tiny_pipeline, Redness(), settings)
    for path in (tmp_path / "run/run.json", tmp_path / "run/evals/step-000000/eval.json"):
        record = json.loads(path.read_text())
        record.get("generation", record).pop("guidance_mode", None)
        path.write_text(json.dumps(record))
    longer = replace(settings, num_train_steps=2)
    summary, _ = run(dataset.root, tmp_path / "run", tiny_pipeline, Redness(), longer)
    assert summary.steps == 2
