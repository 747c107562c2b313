"""One process, two, a Ray cluster, job arrays: the same bytes of every compared file, whoever is killed on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ppod_cli import gen, score

from ppod_data.storage.files import sha256_file
from tests.cli.conftest import PROMPTS
from tests.support.command import REPOSITORY, Result, call, run
from tests.support.ray_cluster import SmallCluster, small_cluster

NUM_SHARDS = 6
GEN = (
    "--prompt",
    PROMPTS[0],
    "--prompt",
    PROMPTS[1],
    "--num-images-per-prompt",
    9,
    "--num-inference-steps",
    20,
)
GEN = (*GEN, "--batch-size", 2, "--images-per-shard", 3)
SCORE = ("--reward", "scenes", "--reward", "jpeg-compressibility", "--batch-size", 2)


def compared(root: Path) -> dict[str, str]:
    """The sha256 of every file that is compared: all but the card and environment/, and nothing hidden is left."""
    places = [path for path in root.rglob("*") if path.is_file() and path.parent.name != "environment"]
    names = {path.relative_to(root).as_posix(): path for path in places}
    return {
        name: sha256_file(path) for name, path in names.items() if name not in ("README.md", "croissant.json")
    }


@pytest.fixture(scope="module")
def words(tiny_pipeline: Path) -> tuple[object, ...]:
    """What is generated."""
    return (*GEN, "--model", tiny_pipeline)


@pytest.fixture(scope="module")
def alone(words: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process makes."""
    root = tmp_path_factory.mktemp("alone") / "data"
    assert call(gen.app, root, *words).code == 0
    assert call(score.app, root, *SCORE).code == 0
    files = compared(root)
    assert len(files) == 1 + 2 * NUM_SHARDS + 2 * (NUM_SHARDS + 1)
    return files


@pytest.fixture(scope="module")
def cluster() -> Iterator[SmallCluster]:
    with small_cluster(num_nodes=2) as made:
        yield made


def on_ray(cluster: SmallCluster) -> tuple[str, ...]:
    return ("--engine", "ray", "--ray-address", cluster.address)


def torchrun(command: str, *words: object, cwd: Path) -> Result:
    """The command in two processes."""
    start = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    done = subprocess.run(
        [sys.executable, "-m", *start, f"ppod_cli.{command}", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'cli'}"},
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one(
    alone: dict[str, str], words: tuple[object, ...], tmp_path: Path
) -> None:
    for done in (
        torchrun("gen", "data", *words, cwd=tmp_path),
        torchrun("score", "data", *SCORE, cwd=tmp_path),
    ):
        assert done.code == 0, done.stderr
    assert compared(tmp_path / "data") == alone


@pytest.mark.slow
def test_job_arrays_make_the_bytes_of_one_in_any_order(
    alone: dict[str, str], words: tuple[object, ...], tmp_path: Path
) -> None:
    for part in ("4:6", "0:1", "3:4", "2:5", "1:2"):  # one overlaps others
        assert call(gen.app, tmp_path / "data", *words, "--shards", part).code == 0
    for part in ("5:6", "1:3", "0:2", "3:5"):
        assert call(score.app, tmp_path / "data", *SCORE, "--shards", part).code == 0
    assert compared(tmp_path / "data") == alone


@pytest.mark.slow
def test_a_ray_cluster_makes_the_bytes_of_one(
    alone: dict[str, str], words: tuple[object, ...], cluster: SmallCluster, tmp_path: Path
) -> None:
    for command, *rest in (("gen", *words), ("score", *SCORE)):
        done = run(command, "data", *rest, *on_ray(cluster), "--json", cwd=tmp_path)
        assert done.code == 0, done.stderr
        assert "shard 000005" in done.stderr
    assert compared(tmp_path / "data") == alone
    again = run("gen", "data", *words, *on_ray(cluster), cwd=tmp_path)
    assert "0 images made" in again.stdout and "18 already there" in again.stdout


def started(root: Path, *words: object) -> subprocess.Popen[str]:
    """ppod-gen of a data set in the background, at work on its first shards."""
    return subprocess.Popen(
        [sys.executable, "-m", "ppod_cli.gen", str(root), *map(str, words)],
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'cli'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def makers(root: Path) -> list[int]:
    """The processes that have a shard in hand: a temporary file's name holds its writer's."""
    return [int(path.name.split("-")[1]) for path in root.glob("trajectories/.*.tmp-*")]


def until(driver: subprocess.Popen[str], met: Callable[[], bool]) -> None:
    """Wait for what happens while the driver runs."""
    while not met():
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.01)


def parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


@pytest.mark.slow
def test_a_node_that_is_killed_costs_nothing_but_time(
    alone: dict[str, str], words: tuple[object, ...], cluster: SmallCluster, tmp_path: Path
) -> None:
    """SIGKILL to a node while one of its workers has a shard in hand."""
    node = cluster.add_node()
    raylet = node.all_processes["raylet"][0].process.pid
    root = tmp_path / "data"
    driver = started(root, *words, *on_ray(cluster))
    until(driver, lambda: raylet in map(parent, makers(root)))
    cluster.kill_node(node)
    _, said = driver.communicate(timeout=300)
    assert driver.returncode == 0, said
    assert "a Ray worker died with shard" in said
    assert run("score", root, *SCORE, *on_ray(cluster), cwd=tmp_path).code == 0
    assert without_leftovers(root) == alone


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_ends_is_started_again(
    alone: dict[str, str],
    words: tuple[object, ...],
    cluster: SmallCluster,
    number: signal.Signals,
    tmp_path: Path,
) -> None:
    """Ctrl-C or SIGKILL while shards are made; its workers end with it, and the next run may be of another engine."""
    root = tmp_path / "data"
    driver = started(root, *words, *on_ray(cluster))
    until(driver, lambda: len(makers(root)) > 0)
    workers = makers(root)
    for pid in workers:  # so that the work cannot end before the signal is there
        os.kill(pid, signal.SIGSTOP)
    driver.send_signal(number)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    if number == signal.SIGINT:
        assert (
            said.endswith("error: interrupted: run the same command again to go on\n") and "Trace" not in said
        )
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.01)
    assert call(gen.app, root, *words).code == 0
    assert call(score.app, root, *SCORE).code == 0
    assert without_leftovers(root) == alone


def without_leftovers(root: Path) -> dict[str, str]:
    """The compared files, without the temporary ones of killed processes, which no reader takes for data."""
    return {name: digest for name, digest in compared(root).items() if "/." not in name}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--ray-address", "auto"), "without --engine ray"),
        (("--engine", "ray", "--ray-address", "nowhere"), "HOST:PORT"),
        (("--engine", "ray", "--ray-address", "127.0.0.1:1"), "no Ray cluster at 127.0.0.1:1"),
    ],
)
def test_what_is_no_cluster_is_one_line(options: tuple[str, ...], named: str, tmp_path: Path) -> None:
    assert named in call(gen.app, tmp_path / "data", "--prompt", "a cat", *options).one_error()
    assert not (tmp_path / "data").exists()


def test_torchrun_and_ray_are_not_mixed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    error = call(gen.app, tmp_path / "data", "--prompt", "a cat", "--engine", "ray").one_error()
    assert "start it without torchrun" in error
