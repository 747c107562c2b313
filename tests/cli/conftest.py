"""One small data set of the embedded model, made once by real subprocesses, for all tests of the commands."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command import Result, run


@dataclass(frozen=True)
class Made:
    """A data set with scores and pairs, and what the commands said."""

    folder: Path
    """Where the commands ran; the data set is `data` in it."""
    gen: Result
    score: Result
    pair: Result

    @property
    def data(self) -> Path:
        return self.folder / "data"


PROMPTS = ("a green colored rabbit", "a cat and a dog")
GEN = ("--num-images-per-prompt", 6, "--num-inference-steps", 4, "--batch-size", 4, "--images-per-shard", 4)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Twelve images in three shards, scored and paired."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    gen = run("gen", "data", "--prompts", "prompts.txt", *GEN, cwd=folder)
    assert gen.code == 0, gen.stderr
    score = run("score", "data", "--json", cwd=folder)
    assert score.code == 0, score.stderr
    pair = run("pair", "rank", "data", "--strategy", "all", cwd=folder)
    assert pair.code == 0, pair.stderr
    return Made(folder, gen, score, pair)
