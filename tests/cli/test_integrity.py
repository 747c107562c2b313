"""Seal, verify and exclude as users type them, on a data set of the embedded model."""

import json
import shutil
from pathlib import Path

import pytest
from ppod_cli import data as cli
from ppod_cli import gen, pair, score, train

from tests.cli.conftest import GEN, PROMPTS, Made
from tests.support.command import Result, call
from tests.support.toy import files


@pytest.fixture
def data(made: Made, tmp_path: Path) -> Path:
    """A copy of the data set with scores and pairs."""
    shutil.copytree(made.data, tmp_path / "data")
    return tmp_path / "data"


def generate(made: Made, data: Path) -> Result:
    return call(gen.app, data, "--prompts", made.folder / "prompts.txt", *GEN)


def test_a_sealed_data_set_is_verified_and_generating_again_changes_nothing(made: Made, data: Path) -> None:
    sealed = call(cli.app, "seal", data, "--json")
    figures = json.loads(sealed.stdout)
    assert sealed.code == 0 and figures["num_files"] == 7 and figures["was_sealed"] is False
    verified = call(cli.app, "verify", data, "--read-data", "--model", "scenes")
    assert verified.code == 0, verified.stderr
    assert "100.0% of the log-probabilities to the last bit" in verified.stdout
    assert verified.stdout.splitlines()[-1].endswith("2 tables, sealed: all is fine")
    before = files(data)
    again = generate(made, data)
    assert again.code == 0 and "0 images made" in again.stdout
    assert call(cli.app, "seal", data).stdout.startswith(f"{data}/SHA256SUMS: was sealed already")
    assert files(data) == before


def test_generating_into_an_incomplete_sealed_data_set_is_refused(made: Made, data: Path) -> None:
    (data / "samples" / "000002.parquet").unlink()
    refused = call(cli.app, "seal", data)
    assert refused.code == 2 and "give --incomplete" in refused.one_error()
    sealed = call(cli.app, "seal", data, "--incomplete")
    assert sealed.code == 0 and "removed trajectories/000002-" in sealed.stdout
    before = files(data)
    refused = generate(made, data)
    assert refused.code == 2 and "remove SHA256SUMS" in refused.one_error()
    assert files(data) == before


def test_excluded_samples_are_gone_from_all_that_follows(data: Path, tmp_path: Path) -> None:
    done = call(cli.app, "exclude", data, "--prompt", PROMPTS[0], "--reason", "asked for", "--json")
    assert done.code == 0 and json.loads(done.stdout)["num_excluded"] == 6
    assert json.loads(call(cli.app, "info", data, "--json").stdout)["num_samples"] == 6
    assert "6 images of 2 prompts" in (data / "README.md").read_text()
    assert call(score.app, data, "--as", "again").code == 0
    paired = call(
        pair.app, "rank", data, "--reward", "again", "--name", "again", "--strategy", "all", "--json"
    )
    assert json.loads(paired.stdout)["num_prompts"] == 1
    words = ("--objective", "ppod", "--num-train-steps", 1, "--pairs-per-step", 2, "--eval-every", 0)
    trained = call(train.app, "offline", data, "--pairs", "again", "--out", tmp_path / "run", *words)
    assert trained.code == 0, trained.stderr
    purged = call(cli.app, "exclude", data, "--purge")
    assert purged.code == 0 and "purged: 6 samples and" in purged.stdout
    assert call(cli.app, "verify", data, "--read-data").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to exclude"),
        (("0" * 32,), "no reason"),
        (("0" * 32, "--reason", "x"), "no sample"),
        (("--prompt", "unknown", "--reason", "x"), "no prompt 'unknown'"),
    ],
)
def test_wrong_exclusions(data: Path, words: tuple[str, ...], said: str) -> None:
    before = files(data)
    refused = call(cli.app, "exclude", data, *words)
    assert refused.code == 2 and said in refused.one_error()
    assert files(data) == before
