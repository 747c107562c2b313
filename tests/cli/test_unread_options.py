"""An option that nothing would read is refused in one line, and nothing is done."""

import shlex
import shutil
from pathlib import Path

import pytest
from ppod_cli import data as data_cli
from ppod_cli import gen, score

from tests.cli.conftest import Made
from tests.support.command import call
from tests.support.toy import files

COMMANDS = {"ppod-data": data_cli.app, "ppod-gen": gen.app, "ppod-score": score.app}
REPLAY = "says how stored steps are replayed: give --model as well"
SCORING = "is about scoring a data set: leave it out with --serve"
SERVING = "is about serving: give --serve NAME, or leave it out"


@pytest.fixture
def data(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data set, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made.data, tmp_path / "data"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ppod-data verify data --adapter run/policy", f"--adapter {REPLAY}"),
        ("ppod-data verify data --revision main", f"--revision {REPLAY}"),
        ("ppod-data verify data --num-trajectories 4", f"--num-trajectories {REPLAY}"),
        ("ppod-data verify data --max-drift 0", f"--max-drift {REPLAY}"),
        ("ppod-data verify data --device cpu", f"--device {REPLAY}"),
        (
            "ppod-data verify data --read-data --read-data-subset 5%",
            "--read-data reads every byte: leave --read-data-subset out",
        ),
        ("ppod-data info data --max-images 4", "--max-images is about the page: give --html FILE as well"),
        (
            "ppod-data push data file://elsewhere --public",
            "file://elsewhere: public is for a repository of the Hub, hf://datasets/OWNER/NAME: leave it out",
        ),
        ("ppod-score --serve jpeg-compressibility --reward scenes", f"--reward {SCORING}"),
        ("ppod-score --serve jpeg-compressibility --as again", f"--as {SCORING}"),
        ("ppod-score --serve jpeg-compressibility --retry-failed", f"--retry-failed {SCORING}"),
        ("ppod-score --serve jpeg-compressibility --shards 0:1", f"--shards {SCORING}"),
        ("ppod-score --serve jpeg-compressibility --num-processes 2", f"--num-processes {SCORING}"),
        ("ppod-score data --port 9000", f"--port {SERVING}"),
        ("ppod-score data --host 0.0.0.0", f"--host {SERVING}"),
        ("ppod-score data --shards 7:9", "shards 7:9 is no range of this data set: it has shards 0:3"),
        (
            "ppod-gen new --prompt 'a dog' --shards 0:1 --dry-run",
            "--shards is a share of the work, and --dry-run plans all of it: leave one of them out",
        ),
    ],
)
def test_what_nothing_would_read_is_refused(data: Path, line: str, reason: str) -> None:
    before = files(data.parent)
    command, *words = shlex.split(line)
    refused = call(COMMANDS[command], *words)
    assert (refused.code, refused.one_error()) == (2, reason)
    assert files(data.parent) == before
