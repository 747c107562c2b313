"""An online run that ended before its first optimizer step goes on in its folder with other options of training."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError, DriftError
from ppod_data.generation.build_spec import build_spec
from ppod_data.storage.files import sha256_file
from ppod_train.objectives import OBJECTIVES
from ppod_train.online import identity
from ppod_train.online.online import train_online
from ppod_train.online.settings import OnlineSettings
from ppod_train.run import train
from ppod_train.settings import TrainSettings
from tests.ppod_train.online.test_online import SETTINGS, TRAIN, Killed, KillIn, Phases, compared, run
from tests.support.models import load_again

CARDS = ("README.md", "croissant.json")
"""Descriptions of a stage's data, written at its end."""


def recorded_options(out: Path) -> dict[str, Any]:
    """Return the options of training that online.json names, after a check that its parts agree."""
    record = json.loads((out / "online.json").read_text())
    options: dict[str, Any] = record["settings"]["train"]
    assert {key: record["identity"][f"train.{key}"] for key in options if key != "report_to"} == {
        key: value for key, value in options.items() if key != "report_to"
    }
    assert record["identity"]["replay_stages"] == record["settings"]["replay_stages"]
    return options


def trained_with(out: Path, stage: int = 1) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((out / f"stage-0{stage}/run/run.json").read_text())["settings"]
    return settings


def made_before_training(out: Path) -> dict[str, tuple[int, str]]:
    """Return the time and the hash of what a run makes before it trains, without the pairs and the data card."""
    return {
        str(path): (path.stat().st_mtime_ns, sha256_file(path))
        for folder in (out / "evals" / "stage-00", out / "stage-01" / "data")
        for path in folder.rglob("*")
        if path.is_file() and "pairs" not in path.parts and path.name not in CARDS
    }


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], Any]:
    """Return a context in which the first update of a training raises an error."""

    @contextmanager
    def first_update_raises(error: BaseException) -> Iterator[None]:
        def raising(*_: object, **__: object) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(train, "train_step", raising)
            with pytest.raises(type(error)):
                yield

    return first_update_raises


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 1, "pairs_per_step": 1, "gradient": "two-pass"},
        {"lora_rank": 4, "learning_rate": 1e-3, "trained_steps": "1:3", "log_ratio_clip": math.inf},
        {"objective": "ddpo", "num_train_steps": 1, "lr_scheduler": "linear", "max_graph_gib": 1.0},
    ],
    ids=["smaller", "other", "objective"],
)
def test_after_an_error_in_the_first_update_a_run_goes_on_with_other_options_of_training(
    tiny_pipeline: Path, redness: Any, tmp_path: Path, failing: Any, changes: dict[str, Any]
) -> None:
    """It ends in the files of a run that was started with these options; nothing is sampled or scored again."""
    out, settings = tmp_path / "run", replace(SETTINGS, train=replace(TRAIN, **changes))
    if not OBJECTIVES[settings.train.objective].on_pairs:
        settings = replace(settings, num_pairs_per_prompt=OnlineSettings.num_pairs_per_prompt)
    first = replace(settings, train=TRAIN)
    with failing(torch.OutOfMemoryError("CUDA out of memory")):
        run(out, tiny_pipeline, redness, first)
    made = made_before_training(out)
    assert len(made) > 10
    summary = run(out, tiny_pipeline, redness, settings)
    assert made_before_training(out) == made
    assert summary == run(tmp_path / "whole", tiny_pipeline, redness, settings)
    files, whole = compared(out), compared(tmp_path / "whole")
    if unused := {name for name in files if name.startswith("stage-01/data/pairs/")} - whole.keys():
        for name in (*unused, "stage-01/data/croissant.json"):  # which names the pairs of the first start
            files.pop(name)
            whole.pop(name, None)
    assert files == whole
    for options in (recorded_options(out), trained_with(out), trained_with(out, 2)):
        assert changes.items() <= options.items()
    with pytest.raises(ConfigError, match="this online run was started with"):
        run(out, tiny_pipeline, redness, first)


def test_the_advice_of_a_drift_error_can_be_followed(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    """In batches of another size the replayed numbers differ in their last bits."""
    narrow = replace(TRAIN, batch_size=1, log_ratio_clip=1e-12)
    settings = replace(SETTINGS, num_stages=1, train=narrow)
    with pytest.raises(DriftError, match="widen --log-ratio-clip"):
        run(tmp_path, tiny_pipeline, redness, settings)
    wide = replace(settings, train=replace(narrow, log_ratio_clip=0.01))
    assert run(tmp_path, tiny_pipeline, redness, wide).stages == 1
    assert recorded_options(tmp_path)["log_ratio_clip"] == 0.01


def test_the_number_of_stages_of_a_falling_rate_may_change_before_the_first_step(
    tiny_pipeline: Path, redness: Any, tmp_path: Path, failing: Any
) -> None:
    settings = replace(
        SETTINGS, eval_images_per_prompt=0, num_stages=2, train=replace(TRAIN, lr_scheduler="linear")
    )
    with failing(torch.OutOfMemoryError()):
        run(tmp_path, tiny_pipeline, redness, settings)
    assert run(tmp_path, tiny_pipeline, redness, replace(settings, num_stages=1)).stages == 1
    with pytest.raises(ConfigError, match="at the end of stage 1"):
        run(tmp_path, tiny_pipeline, redness, settings)


def test_options_of_what_was_made_before_the_first_step_stay(
    tiny_pipeline: Path, redness: Any, tmp_path: Path, failing: Any
) -> None:
    with failing(torch.OutOfMemoryError()):
        run(tmp_path, tiny_pipeline, redness)
    record = (tmp_path / "online.json").read_bytes()
    for other, message in (
        (replace(SETTINGS, train=replace(TRAIN, seed=1)), r"train\.seed 0, not 1"),
        (replace(SETTINGS, min_margin=0.1), r"min_margin 0\.0, not 0\.1"),
        (replace(SETTINGS, eval_images_per_prompt=2), "eval_images_per_prompt 4, not 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(tmp_path, tiny_pipeline, redness, other)
    with pytest.raises(
        ConfigError, match=r"started with generation\.batch_size 4, not 2: give the same options"
    ):
        run(tmp_path, tiny_pipeline, redness, batch_size=2)
    assert (tmp_path / "online.json").read_bytes() == record


def test_after_the_first_step_only_options_that_change_no_result_may_change(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "run", tiny_pipeline, redness, progress=KillIn("stage 1/2 train"))
    for change in ({"pairs_per_step": 1}, {"num_train_steps": 3}, {"batch_size": 1}):
        with pytest.raises(ConfigError, match=f"started with train.{next(iter(change))} "):
            run(tmp_path / "run", tiny_pipeline, redness, replace(SETTINGS, train=replace(TRAIN, **change)))
    free: dict[str, Any] = {
        "max_graph_gib": 1.0,
        "checkpoint_every": 2,
        "patience": 5,
        "stop_when": "exploited",
    }
    changed = replace(SETTINGS, train=replace(TRAIN, **free))
    run(tmp_path / "run", tiny_pipeline, redness, changed)
    run(tmp_path / "whole", tiny_pipeline, redness)
    assert free.items() <= recorded_options(tmp_path / "run").items()
    name = "policy/pytorch_lora_weights.safetensors"
    assert sha256_file(tmp_path / "run" / name) == sha256_file(tmp_path / "whole" / name)


def test_a_kill_between_the_record_and_the_training_leaves_all_options_open(
    tiny_pipeline: Path, redness: Any, tmp_path: Path, failing: Any
) -> None:
    """Killed in training: run.json stays, which an error would have removed, and names the options of that start."""
    settings = replace(SETTINGS, num_stages=1, eval_images_per_prompt=0)
    for pairs_per_step in (3, 1):
        with failing(KeyboardInterrupt()):
            changed = replace(TRAIN, pairs_per_step=pairs_per_step)
            run(tmp_path, tiny_pipeline, redness, replace(settings, train=changed))
        for options in (recorded_options(tmp_path), trained_with(tmp_path)):
            assert options["pairs_per_step"] == pairs_per_step
    with pytest.raises(Killed):  # between online.json and run.json
        ended = KillAt("stage 1/1 train")
        run(
            tmp_path, tiny_pipeline, redness, replace(settings, train=replace(TRAIN, pairs_per_step=4)), ended
        )
    assert recorded_options(tmp_path)["pairs_per_step"] == 4
    run(tmp_path, tiny_pipeline, redness, settings)
    for options in (recorded_options(tmp_path), trained_with(tmp_path)):
        assert options["pairs_per_step"] == TRAIN.pairs_per_step


class KillAt(Phases):
    """Ends a run at the start of a phase."""

    def __init__(self, phase: str) -> None:
        super().__init__()
        self._phase = phase

    def note(self, text: str) -> None:
        if text == self._phase:
            raise Killed


def test_a_step_that_another_process_took_before_the_folder_was_locked_is_seen(
    tiny_pipeline: Path, redness: Any, tmp_path: Path, failing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing(torch.OutOfMemoryError()):
        run(tmp_path, tiny_pipeline, redness)
    record, real = (tmp_path / "online.json").read_bytes(), identity.only_run

    @contextmanager
    def locked_late(out: Path) -> Iterator[Callable[[], None]]:
        (out / "stage-01" / "run").mkdir()
        (out / "stage-01" / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
        with real(out) as keep:
            yield keep

    monkeypatch.setattr(identity, "only_run", locked_late)
    with pytest.raises(ConfigError, match=r"train\.pairs_per_step 2, not 1"):
        run(tmp_path, tiny_pipeline, redness, replace(SETTINGS, train=replace(TRAIN, pairs_per_step=1)))
    assert (tmp_path / "online.json").read_bytes() == record


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"lr_warmup_steps": 4}, "lr_warmup_steps 4 of 4 training steps: give fewer"),
        (
            {"trained_steps": "7:9"},
            "trained_steps 7:9 has no trainable step of the data of this run: give a range within 0:4",
        ),
        (
            {"timesteps_per_update": 2, "dpo_beta": 200.0},
            "timesteps_per_update 2 of 4 with dpo_beta 200 .*: the sum over a subset is far from the sum",
        ),
    ],
)
def test_what_training_would_refuse_is_an_error_before_anything_is_sampled(
    tiny_pipeline: Path, redness: Any, tmp_path: Path, train: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "run", tiny_pipeline, redness, replace(SETTINGS, train=replace(TRAIN, **train)))
    assert not (tmp_path / "run").exists()


def test_all_weights_in_half_precision_are_an_error_before_anything_is_sampled(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="all weights train in fp32 only, not bf16: use LoRA"):
        train_online(
            tmp_path / "run",
            replace(SETTINGS, train=replace(TRAIN, lora_rank=0)),
            reference=ModelSource(model=str(tiny_pipeline)),
            build_spec=partial(build_spec, prompts=("a cat",), num_inference_steps=4),
            load=lambda source: load_again(source.model, compute_dtype="bf16"),
            reward=redness,
        )
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_what_training_would_refuse() -> None:
    from ppod_data.generation.sampling_settings import SamplingSettings
    from ppod_train.library.plans import plan_online

    settings = OnlineSettings(num_stages=1, train=TrainSettings(num_train_steps=5, lr_warmup_steps=5))
    with pytest.raises(ConfigError, match="lr_warmup_steps 5 of 5 training steps"):
        plan_online(("a cat",), settings, sampling=SamplingSettings(), model="scenes", device="cpu")
