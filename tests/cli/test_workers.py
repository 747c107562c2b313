"""A shard is the same bytes whoever makes it: after a kill, on any number of threads."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ppod_cli import gen

from ppod_data.files import sha256_file
from tests.cli.conftest import GEN, Made
from tests.cli.running import REPOSITORY, call


def base(root: Path) -> dict[str, str]:
    """The sha256 of every file that is compared."""
    places = [root / "ppod.json", *(root / "samples").iterdir(), *(root / "trajectories").iterdir()]
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in places if path.name[0] != "."}


def test_killed_and_resumed_is_the_same_as_undisturbed(made: Made, tmp_path: Path) -> None:
    """SIGKILL as soon as the first shard is there; what the kill left behind is never read."""
    words = ["data", "--prompts", str(made.folder / "prompts.txt"), *map(str, GEN)]
    folders = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'cli'}"
    process = subprocess.Popen(
        [sys.executable, "-m", "ppod_cli.gen", *words],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": folders},
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not list((tmp_path / "data" / "samples").glob("[!.]*.parquet")):
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
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
