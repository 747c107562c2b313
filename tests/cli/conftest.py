"""One small data set of the embedded model, made once by the commands, for all tests of the commands."""

from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import pytest
from ppod_cli import gen, pair, score

from tests.support.command import Result, call


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
    with chdir(folder):
        made = call(gen.app, "data", "--prompts", "prompts.txt", *GEN)
        assert made.code == 0, made.stderr
        scored = call(score.app, "data", "--json")
        assert scored.code == 0, scored.stderr
        paired = call(pair.app, "rank", "data", "--strategy", "all")
        assert paired.code == 0, paired.stderr
    return Made(folder, made, scored, paired)
