"""`--num-processes`: the bytes of one process; deaths and Ctrl-C are one line, and the next run continues."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ppod_cli import gen, score, train

from tests.cli.conftest import GEN, Made
from tests.cli.test_workers import ENVIRONMENT, base
from tests.support.command import call, run

pytestmark = pytest.mark.long

TWO = ("--num-processes", 2)


def words(made: Made) -> tuple[object, ...]:
    return ("--prompts", made.folder / "prompts.txt", *GEN)


def test_two_processes_make_the_bytes_of_one(made: Made, tmp_path: Path) -> None:
    done = call(gen.app, tmp_path / "data", *words(made), *TWO)
    assert done.code == 0, done.stderr
    assert "12 images made" in done.stdout
    lines = [line for line in done.stderr.splitlines() if "shard" in line]
    assert sorted(line.split(" (")[0] for line in lines) == [f"gen: shard {n:06d} made" for n in range(3)]
    assert lines[-1].split("(")[1].startswith("12 of 12 images")
    scored = call(score.app, tmp_path / "data", *TWO, "--json")
    assert json.loads(scored.stdout)["scores"][0]["num_scored"] == 12
    assert base(tmp_path / "data") == base(made.data)
    for path in (made.data / "scores").rglob("*.parquet"):
        assert (tmp_path / "data" / path.relative_to(made.data)).read_bytes() == path.read_bytes()


def test_processes_make_what_is_missing(made: Made, tmp_path: Path) -> None:
    assert call(gen.app, tmp_path / "data", *words(made), "--shards", "1:2").code == 0
    done = call(gen.app, tmp_path / "data", *words(made), *TWO)
    assert "8 images made" in done.stdout and "4 already there" in done.stdout
    assert base(tmp_path / "data") == base(made.data)


def hear_interrupts() -> None:
    """Take Ctrl-C as in a terminal, whatever runs the tests: a shell's background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def makers(root: Path) -> list[int]:
    """The processes that write a shard: a temporary file's name holds its writer's."""
    return [int(path.name.split("-")[1]) for path in root.glob("trajectories/.*.tmp-*")]


@pytest.mark.parametrize("victim", ["worker", "ctrl-c", pytest.param("driver", marks=pytest.mark.slow)])
def test_an_end_is_one_line_and_the_next_run_continues(made: Made, tmp_path: Path, victim: str) -> None:
    """SIGKILL to a worker, Ctrl-C to the whole group as a terminal sends it, SIGKILL to the command itself."""
    root = tmp_path / "data"
    driver = subprocess.Popen(
        [sys.executable, "-m", "ppod_cli.gen", str(root), *map(str, (*words(made), *TWO))],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    while not (workers := makers(root)):
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.01)
    for pid in workers:  # so that the work cannot end before the signal is there
        os.kill(pid, signal.SIGSTOP)
    if victim == "worker":
        os.kill(workers[0], signal.SIGKILL)
    elif victim == "ctrl-c":
        os.killpg(driver.pid, signal.SIGINT)
    else:
        driver.kill()
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == {"worker": 1, "ctrl-c": 130, "driver": -signal.SIGKILL}[victim]
    errors = [line for line in said.splitlines() if not line.startswith("gen: ")]
    if victim == "worker":
        assert (
            len(errors) == 1 and "was killed by SIGKILL" in errors[0] and "run the same command" in errors[0]
        )
    elif victim == "ctrl-c":
        assert errors == ["error: interrupted: run the same command again to go on"]
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.01)
    assert call(gen.app, root, *words(made)).code == 0
    assert base(root) == base(made.data)


def below(pid: int) -> list[int]:
    """The children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def training(data: Path, *more: object) -> list[str]:
    few = ("--num-train-steps", 12, "--pairs-per-step", 2, "--batch-size", 8, "--checkpoint-every", 1)
    return [str(word) for word in ("offline", data, "--out", "run", *few, "--eval-every", 0, "--json", *more)]


@pytest.mark.parametrize("victim", ["rank", pytest.param("ctrl-c", marks=pytest.mark.slow)])
def test_ranks_train_as_one_and_end_together(
    made: Made, tmp_path: Path, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps before the end are those of one process up to rounding; one process finishes the run."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "ppod_cli.train", *training(made.data, *TWO)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    while not list(tmp_path.glob("run/checkpoints/step-*2")):
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.01)
    ranks = [rank for server in below(driver.pid) for rank in below(server)]
    assert len(ranks) == 2
    if victim == "rank":
        os.kill(ranks[1], signal.SIGKILL)
    else:
        os.killpg(driver.pid, signal.SIGINT)
    stdout, stderr = driver.communicate(timeout=120)
    assert (driver.returncode, stdout) == ({"rank": 1, "ctrl-c": 130}[victim], "")
    [line] = [line for line in stderr.splitlines() if "error" in line]
    assert ("was killed by SIGKILL" if victim == "rank" else "interrupted: ") in line
    assert "run the same command again" in line and "Trace" not in stderr
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        time.sleep(0.01)
    monkeypatch.chdir(tmp_path)
    resumed = call(train.app, *training(made.data))
    assert "resuming from step " in resumed.stderr and json.loads(resumed.stdout)["steps"] == 12
    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    assert call(train.app, *training(made.data)).code == 0
    losses = [
        [json.loads(line)["loss"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path, tmp_path / "alone")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0][0] == losses[1][0]


def test_ranks_evaluate_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "eval",
        "--prompt",
        "a cat",
        "--prompt",
        "a dog",
        "--num-images-per-prompt",
        4,
        "--batch-size",
        2,
    ]
    words += ["--num-inference-steps", 4, "--json", "--out", "result"]
    monkeypatch.chdir(tmp_path)
    alone = call(train.app, *words)
    (tmp_path / "shared").mkdir()
    shared = run("train", *words, *TWO, cwd=tmp_path / "shared")
    assert shared.code == 0, shared.stderr
    assert shared.stdout == alone.stdout
    for name in ("summary.json", "grid.png", "after/eval.json"):
        assert (tmp_path / "shared/result" / name).read_bytes() == (tmp_path / "result" / name).read_bytes()


@pytest.mark.slow
def test_ranks_train_online(tmp_path: Path) -> None:
    """Stages of two processes make the first stage's data of one."""
    words = ["online", "--prompt", "a cat", "--prompt", "a dog", "--stages", 2, "--num-images-per-prompt", 4]
    words += ["--num-inference-steps", 4, "--batch-size", 2, "--images-per-shard", 2, "--num-train-steps", 2]
    words += ["--pairs-per-step", 2, "--eval-images-per-prompt", 2, "--json", "--out", "run"]
    found = []
    for folder, more in ((tmp_path / "alone", ("--num-processes", 1)), (tmp_path / "shared", TWO)):
        folder.mkdir()
        done = run("train", *words, *more, cwd=folder)
        assert done.code == 0, done.stderr
        assert json.loads(done.stdout)["stages"] == 2
        found.append(base(folder / "run/stage-01/data"))
    assert found[0] == found[1]


def test_an_error_of_a_rank_is_the_commands(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = call(train.app, *training(made.data, *TWO, "--start", "nowhere"))
    assert failed.code == 2 and "nowhere" in failed.one_error()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-processes", "0"), "give auto, or a number from 1"),
        (("--num-processes", "many"), "give auto, or a number from 1"),
        (("--num-processes", "2", "--engine", "ray"), "--engine ray shares the work already"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    assert message in call(gen.app, tmp_path / "data", "--prompt", "a cat", *options).one_error()
    assert not (tmp_path / "data").exists()


def test_processes_of_a_launcher_start_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    refused = call(gen.app, tmp_path / "data", "--prompt", "a cat", *TWO).one_error()
    assert "torchrun or accelerate launch shares the work already" in refused
