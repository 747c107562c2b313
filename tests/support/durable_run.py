"""`ppod-train offline` to strike: what it does to a folder, when that is whole, and what is compared in the end."""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file

from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_train.evaluation.files import EVAL_NAME, read_evaluation
from ppod_train.run.checkpoint import latest_checkpoint, load_state
from ppod_train.run.train import train_offline
from ppod_train.settings import TrainSettings
from tests.ppod_train.conftest import Redness, record, source_of
from tests.support.faults import in_child

SETTINGS = TrainSettings(
    num_train_steps=3,
    pairs_per_step=2,
    lora_rank=2,
    learning_rate=1e-2,
    log_ratio_clip=0.5,
    ema_decay=0.5,
    eval_every=2,
    eval_images_per_prompt=2,
    checkpoint_every=1,
    drift_samples=2,
)
"""The checkpoint of the third step removes that of the first."""


def make_training(pipeline: Path, place: Path) -> Callable[[Path], None]:
    """The work of a run, each time in a process of its own: training changes the model in place."""
    model: DiffusionModel = load_model(str(pipeline))
    data = place / "data"
    record(data, model, num_images_per_prompt=4, num_inference_steps=2, batch_size=4)

    def train(out: Path) -> None:
        train_offline(source_of(data), out, SETTINGS, model=model, reward=Redness())

    return train


def make_run(train: Callable[[Path], None], out: Path) -> Path:
    """The folder of an undisturbed run."""
    out.mkdir()
    assert in_child(lambda: train(out)) == 0
    assert len(list((out / "checkpoints").iterdir())) == 2
    return out


def check_run(out: Path) -> None:
    """Fails where a part of a run that shows is not whole."""
    for folder in (out / "checkpoints").glob("step-*"):
        load_state(folder)
        assert {path.stem for path in folder.iterdir()} == {"weights", "optimizer", "state"}, folder
        load_file(folder / "weights.safetensors")
        load_file(folder / "optimizer.safetensors")
    for file in (out / "evals").glob("step-*/" + EVAL_NAME):
        read_evaluation(file.parent)
    if (out / "policy").exists():
        assert load_file(out / "policy" / "pytorch_lora_weights.safetensors")
    checkpoint = latest_checkpoint(out / "checkpoints")
    if checkpoint is not None:
        steps = int(checkpoint.name.removeprefix("step-"))
        lines = (out / "metrics.jsonl").read_text().splitlines()[:steps]
        assert [json.loads(line)["step"] for line in lines] == list(range(1, steps + 1))
        due = {step for step in (0, 2, 3) if step <= steps}
        assert all((out / "evals" / f"step-{step:06d}" / EVAL_NAME).exists() for step in due)
