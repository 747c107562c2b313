"""What a run says of itself at its start."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ppod_train.evaluation.exploitation import find_in
from ppod_train.evaluation.log import LOG_NAME, forget_evaluations
from ppod_train.run.run_folder import largest_possible_logit
from ppod_train.settings import TrainSettings
from tests.support.training import SETTINGS, run


def test_the_largest_possible_logit_is_twice_beta_times_steps_times_clip() -> None:
    settings = TrainSettings(dpo_beta=5.0, log_ratio_clip=0.02)
    assert largest_possible_logit(settings, num_steps=10) == pytest.approx(2 * 5 * 10 * 0.02)


@pytest.mark.parametrize(
    ("objective", "changed"),
    [
        ("ppod", {"log_ratio_clip": math.inf}),
        ("ppod", {"clip_mode": "pessimistic-step"}),
        ("ppod", {"clip_anchor": "stage"}),
        ("d3po", {}),
        ("diffusion-dpo", {}),
        ("ddpo", {}),
    ],
)
def test_there_is_none_where_the_clip_sets_no_bound(objective: str, changed: dict[str, Any]) -> None:
    assert largest_possible_logit(TrainSettings(objective=objective, **changed), num_steps=10) is None


def test_tensorboard_has_the_evaluations_and_a_finished_run_adds_nothing(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, num_train_steps=2, eval_every=2)
    run(recorded, tmp_path / "run", tiny_pipeline, redness, settings)
    board = tmp_path / "run" / "tensorboard"
    files = sorted(board.rglob("*"))
    assert all(path.is_file() for path in files)
    events = EventAccumulator(str(board))
    events.Reload()
    assert [event.step for event in events.Scalars("eval/reward")] == [0, 2]
    assert {"eval/win_rate", "eval/diversity", "loss"} <= set(events.Tags()["scalars"])
    run(recorded, tmp_path / "run", tiny_pipeline, redness, settings)
    assert sorted(board.rglob("*")) == files


def test_the_log_of_evaluations_has_the_figures_of_each_and_a_finished_run_adds_nothing(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    for _ in range(2):
        run(recorded, tmp_path / "run", tiny_pipeline, redness)
        log = (tmp_path / "run" / "evaluations.jsonl").read_text()
        lines = [json.loads(line) for line in log.splitlines()]
        assert [line["step"] for line in lines] == [0, 3, 6]
        for line in lines:
            record = json.loads((tmp_path / f"run/evals/step-{line['step']:06d}/eval.json").read_text())
            assert record["overall"].items() <= line.items()
            assert line["statistics"] == record["statistics"] != {}
            assert line["finding"] == (
                asdict(found) if (found := find_in(record["overall"], record["statistics"])) else None
            )
            assert "usage" not in line


def test_a_repeated_evaluation_replaces_its_line_and_all_later_ones(tmp_path: Path) -> None:
    (tmp_path / LOG_NAME).write_text('{"step": 0}\n{"step": 2}\nhalf a li\n{"step": 4}\n{"step": 6}\n')
    forget_evaluations(tmp_path, "step", 4)
    assert (tmp_path / LOG_NAME).read_text() == '{"step": 0}\n{"step": 2}\n{"step": 4}\n'
    forget_evaluations(tmp_path / "absent", "step", 4)
    assert not (tmp_path / "absent").exists()
