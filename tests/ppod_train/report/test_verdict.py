"""Verdict on a run: it names the kept policy, and advises nothing that the run did already."""

import json
from pathlib import Path
from typing import Any

import pytest

from ppod_train.report.runs import read_run
from ppod_train.report.verdict import verdict
from tests.support.report_cases import make_online_run, make_run, put

GAIN = {"gain": 0.2, "gain_low": 0.1, "gain_high": 0.3}
EXPLOITED = GAIN | {"check_gain": -0.4, "check_gain_low": -0.5, "check_gain_high": -0.3}
STOPS = {"stop_when": "exploited"}


def judged(folder: Path, rewards: dict[str, float], overall: dict[str, dict[str, float]]) -> None:
    """Give the run's evaluations these mean rewards, and some of them these values over all prompts."""
    for name, reward in rewards.items():
        path = folder / "evals" / name / "eval.json"
        record = json.loads(path.read_text())
        put(path, record | {"overall": record["overall"] | {"reward_mean": reward} | overall.get(name, {})})


def online(folder: Path, rewards: list[float], settings: dict[str, Any], *, exploited: int = 0) -> str:
    """Return the verdict on an online run whose evaluations, the reference's first, have these rewards."""
    run = make_online_run(folder, stages=len(rewards) - 1)
    record = json.loads((run / "online.json").read_text())
    put(run / "online.json", record | {"settings": record["settings"] | settings})
    names = [f"stage-{stage:02d}" for stage in range(len(rewards))]
    judged(run, dict(zip(names, rewards, strict=True)), {names[exploited]: EXPLOITED} if exploited else {})
    return verdict(read_run(run))


def test_an_online_verdict_is_on_the_stage_that_was_kept(tmp_path: Path) -> None:
    """Stage 2 has the best reward, but exploits it: stage 1 is kept, which is below the start."""
    text = online(tmp_path / "run", [0.0, -0.1, 0.2], STOPS, exploited=2)
    assert "the kept policy, of stage 1, is not better than the starting model." in text
    assert "The policy of stage 2 exploits the reward: reward +0.20, check −0.40." in text
    assert "try a sum of rewards, or fewer steps, and another --out" in text and "--stop-when" not in text


def test_an_only_stage_that_exploits_the_reward_is_kept_and_named(tmp_path: Path) -> None:
    text = online(tmp_path / "run", [0.0, 0.2], STOPS, exploited=1)
    assert text.startswith("Not better. The policy exploits the reward") and "--stop-when" not in text


def test_a_run_without_the_option_is_advised_to_stop_there(tmp_path: Path) -> None:
    text = online(tmp_path / "run", [0.0, -0.1, 0.2], {}, exploited=2)
    assert text.startswith("Not better. The policy exploits the reward")
    assert "try a sum of rewards, --stop-when exploited, or fewer steps" in text


@pytest.mark.parametrize("reward", [0.0, -0.5])
def test_a_kept_policy_of_the_same_reward_is_not_called_worse(tmp_path: Path, reward: float) -> None:
    text = online(tmp_path / "run", [0.0, reward, -1.0], {})
    assert text.startswith(
        "Nothing beat the starting model: the kept policy, of stage 1, is not better than the starting model. "
    )
    assert "worse" not in text


def test_an_offline_run_that_stopped_keeps_its_start(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=(0, 20))
    put(run / "run.json", {"settings": {"objective": "ppod"} | STOPS})
    judged(run, {"step-000000": 0.0, "step-000020": 0.2}, {"step-000020": EXPLOITED})
    text = verdict(read_run(run))
    assert "the kept policy IS the starting model. The policy exploits the reward" in text
    assert "try a sum of rewards, or fewer steps" in text


@pytest.mark.parametrize(
    ("objective", "reads_pairs"), [("ppod", True), ("d3po", True), ("sft", False), ("awm", False)]
)
def test_clearer_pairs_are_advised_only_to_an_objective_that_reads_pairs(
    tmp_path: Path, objective: str, reads_pairs: bool
) -> None:
    run = make_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    put(run / "run.json", record | {"settings": record["settings"] | {"objective": objective}})
    judged(run, {path.name: 0.0 for path in (run / "evals").iterdir()}, {})
    text = verdict(read_run(run))
    assert "The reward hardly moved: try " in text and ("min-margin" in text) == reads_pairs
