"""A shard is the same bytes whoever makes it: after a kill, on any number of threads; processes train together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ppod_cli import gen, score, train

from ppod_data.storage.files import sha256_file
from tests.cli.conftest import GEN, Made
from tests.support.command import REPOSITORY, call, fork

pytestmark = pytest.mark.long

FOLDERS = {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'cli'}"}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | FOLDERS
STEPS = 12
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]


def base(root: Path) -> dict[str, str]:
    """The sha256 of every file that is compared."""
    places = [root / "ppod.json", *(root / "samples").iterdir(), *(root / "trajectories").iterdir()]
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in places if path.name[0] != "."}


def test_killed_and_resumed_is_the_same_as_undisturbed(made: Made, tmp_path: Path) -> None:
    """SIGKILL as soon as the first shard is there; what the kill left behind is never read."""
    words = ["data", "--prompts", str(made.folder / "prompts.txt"), *map(str, GEN)]
    process = fork(gen.app, *words, cwd=tmp_path)
    try:
        while process.is_alive() and not list((tmp_path / "data" / "samples").glob("[!.]*.parquet")):
            time.sleep(0.01)
    finally:
        process.kill()
        process.join()
    assert call(gen.app, tmp_path / "data", *words[1:]).code == 0
    assert base(tmp_path / "data") == base(made.data)


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_does_not_matter(made: Made, tmp_path: Path, threads: int) -> None:
    """The embedded network's last bits do depend on it in small batches; sampling uses one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        words = ["--prompts", made.folder / "prompts.txt", *GEN]
        assert call(gen.app, tmp_path / "data", *words).code == 0
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert base(tmp_path / "data") == base(made.data)


def training(data: Path) -> list[str]:
    words = (
        "offline",
        data,
        "--out",
        "run",
        "--num-train-steps",
        STEPS,
        "--checkpoint-every",
        1,
        "--eval-every",
        0,
    )
    return [*map(str, words), "--pairs-per-step", "2", "--json"]


def children(process: "subprocess.Popen[str]") -> dict[int, int]:
    """The processes that torchrun started, by rank."""
    found = {}
    for pid in map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()):
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        found |= {int(value[5:]): pid for value in variables if value.startswith("RANK=")}
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
def test_a_killed_process_ends_the_others_and_the_run_goes_on(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL of one of two while they train: the other one says so in a line, and a single process finishes."""
    with subprocess.Popen(
        [*TORCHRUN, "ppod_cli.train", *training(made.data)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None and not list(tmp_path.glob("run/checkpoints/step-*2")):
            time.sleep(0.01)
        os.kill(children(process)[1], signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode != 0 and stdout == ""
    [line] = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert "another process of this run ended" in line and line.endswith("resume from the last checkpoint")
    assert 2 <= len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) < STEPS
    monkeypatch.chdir(tmp_path)
    resumed = call(train.app, *training(made.data))
    assert resumed.code == 0 and "resuming from step " in resumed.stderr, resumed.stderr
    assert json.loads(resumed.stdout)["steps"] == STEPS
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_processes_speak_as_one(made: Made, tmp_path: Path) -> None:
    done = subprocess.run(
        [*TORCHRUN, "ppod_cli.train", *training(made.data)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == STEPS
    assert sum(line.startswith("drift: ") for line in done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "variables", "message"),
    [
        ("offline", {"ACCELERATE_USE_DEEPSPEED": "true"}, "leave DeepSpeed out"),
        ("online", {"ACCELERATE_USE_FSDP": "true"}, "set fsdp_version to 2"),
        ("eval", {"ACCELERATE_MIXED_PRECISION": "bf16"}, "give --compute-dtype"),
        (
            "offline",
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            "FSDP_OFFLOAD_PARAMS",
        ),
    ],
)
def test_a_configuration_that_would_be_ignored_is_refused(
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    variables: dict[str, str],
    message: str,
) -> None:
    for name, value in {"WORLD_SIZE": "1", **variables}.items():
        monkeypatch.setenv(name, value)
    where = [made.data] if command == "offline" else ["--prompt", "a cat and a dog"]
    failed = call(train.app, command, *where, "--out", tmp_path / "run")
    assert message in failed.one_error()
    assert not (tmp_path / "run").exists()


def test_a_launcher_that_says_too_little_is_refused(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    failed = call(train.app, *training(made.data))
    assert (
        failed.one_error()
        == "process 1: WORLD_SIZE is 2, but MASTER_ADDR is not set: start the command with torchrun"
    )


def test_a_lone_process_of_accelerate_launch_says_so(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPUs it starts one, whatever --num_processes is."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert "accelerate launch started one process" in call(score.app, made.data).stderr
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "accelerate launch" not in call(score.app, made.data).stderr
