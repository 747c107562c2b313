"""Bad input and failures of the world: one line that says what to do next, the exit code, nothing half-written.

Three tests run a command in a process of its own; the others run the same entry point in this process.
"""

import errno
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ppod_cli import data, gen, pair, score, train
from ppod_cli.app.errors import entry_point, explain, runner
from ppod_cli.app.options import command, new_commands
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ppod_data.errors import ConfigError, DamagedError
from ppod_data.format.tables import PAIRS, read_table, write_table
from tests.cli.conftest import GEN, Made
from tests.support.command import call, run
from tests.support.toy import files, flip

COMMANDS = {"gen": gen.app, "score": score.app, "pair": pair.app, "train": train.app, "data": data.app}


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Path:
    """A data set of one's own to spoil."""
    return Path(shutil.copytree(made.data, tmp_path / "data"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n \n", "no prompts in this file: write one prompt a line"),
        (
            "latin.txt",
            "ein grüner Hase".encode("latin-1"),
            "latin.txt:1: not UTF-8: save the file in this encoding",
        ),
        ("wide.txt", "a cat".encode("utf-16"), "wide.txt:1: not UTF-8"),
        ("twice.txt", b"a cat\na dog\na cat\n", "twice.txt:3: the same prompt as twice.txt:1"),
    ],
)
def test_prompt_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    failed = call(gen.app, "data", "--prompts", name)
    assert failed.code == 2
    assert message in failed.one_error()
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--ddim-eta", "0"],
            "'--ddim-eta': must be above 0, not 0: a chain without noise has no log-probabilities",
        ),
        (["--ddim-eta", "1.1"], "'--ddim-eta': must be at most 1, not 1.1"),
        (
            ["--num-images-per-prompt", "0"],
            "'--num-images-per-prompt': must be at least 1, not 0",
        ),
        (
            ["--num-inference-steps", "0"],
            "'--num-inference-steps': must be at least 1, not 0",
        ),
        (["--guidance-scale", "0.5"], "'--guidance-scale': must be at least 1, not 0.5"),
        (["--seed", "1.5"], "'--seed': must be a whole number, not 1.5"),
        (["--ddim-eta", "half"], "'--ddim-eta': must be a number, not half"),
        (["--latent-dtype", "fp8"], "'--latent-dtype'"),
        (["--shards", "4"], "--shards 4: write A:B with A below B, for example 0:4"),
        (["--shards", "4:4"], "--shards 4:4: write A:B with A below B"),
        (["--unknown", "1"], "No such option: --unknown"),
    ],
)
def test_options_out_of_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = call(gen.app, "data", "--prompt", "a cat", *words)
    assert failed.code == 2
    assert message in failed.one_error()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        ("gen", ["data"], "no prompts: give --prompt TEXT or --prompts FILE"),
        ("gen", [], "Missing argument 'DATASET': see ppod-gen --help"),
        (
            "gen",
            ["https://host/data", "--prompt", "a cat"],
            "a web server's files cannot be listed",
        ),
        ("score", ["data", "--reward", "scene"], "unknown reward model 'scene': did you mean 'scenes'?"),
        (
            "score",
            ["data", "--reward", "scenes", "--reward", "scenes-check", "--as", "x"],
            "--as names one table",
        ),
        ("score", ["data"], "data: no such folder: make one with ppod-gen, or check the path"),
        ("pair", ["rank", "data"], "data: no such folder: make one with ppod-gen, or check the path"),
        ("pair", ["rank", "data", "--strategy", "best"], "'--strategy'"),
        ("pair", ["rnak", "data"], "No such command 'rnak'. Did you mean 'rank'?: see ppod-pair --help"),
        ("train", ["offline", "data", "--out", "run", "--reward", "ImageReward"], "unknown reward model"),
        ("train", ["eval", "--out", "result"], "no prompts: give --prompt TEXT or --prompts FILE"),
        ("data", ["info", "data"], "data: no such folder"),
    ],
)
def test_names_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = call(COMMANDS[module], *words)
    assert failed.code == 2
    assert message in failed.one_error()
    assert os.listdir(tmp_path) == []


def test_a_process_ends_with_the_code_and_one_line(tmp_path: Path) -> None:
    failed = run("gen", "data", "--prompt", "a cat", "--seed", "1.5", cwd=tmp_path)
    assert failed.code == 2
    assert "'--seed': must be a whole number, not 1.5" in failed.one_error()
    assert os.listdir(tmp_path) == []


def test_ranks_that_are_none(tmp_path: Path) -> None:
    failed = run("gen", "data", "--prompt", "a cat", cwd=tmp_path, RANK="2", WORLD_SIZE="2")
    assert failed.code == 2
    assert "RANK=2, WORLD_SIZE=2 are no rank of a world" in failed.one_error()


def test_an_unknown_model(tmp_path: Path) -> None:
    failed = call(gen.app, tmp_path / "data", "--prompt", "a cat", "--model", "scnes")
    assert failed.code == 2
    assert (
        "unknown model scnes: give scenes, a pipeline folder, or an id on the Hugging Face Hub"
        in failed.one_error()
    )
    assert os.listdir(tmp_path) == []


def test_an_unknown_device(tmp_path: Path) -> None:
    failed = call(gen.app, tmp_path / "data", "--prompt", "a cat", "--device", "abacus")
    assert failed.code == 2
    assert "device abacus cannot be used here" in failed.one_error()


def test_another_spec_names_the_field_and_both_values(made: Made) -> None:
    before = files(made.data)
    failed = call(gen.app, made.data, "--prompts", made.folder / "prompts.txt", *GEN, "--seed", 7)
    assert failed.code == 2
    assert (
        "seed differs: 0 in the data set, 7 in the options: give the old value again, or"
        in failed.one_error()
    )
    assert files(made.data) == before


def test_pairs_by_an_unknown_score_table(made: Made) -> None:
    failed = call(pair.app, "rank", made.data, "--reward", "aesthetic")
    assert failed.code == 2
    assert "no scores named 'aesthetic': give scenes, or make them with ppod-score" in failed.one_error()


def test_pairs_that_refer_to_missing_samples(copy: Path, tmp_path: Path) -> None:
    path = copy / "pairs" / "scenes.parquet"
    rows = read_table(path, PAIRS).to_pylist()
    rows[0]["chosen_id"] = "0" * 32
    write_table(path, pa.Table.from_pylist(rows, schema=PAIRS))
    failed = call(train.app, "offline", copy, "--out", tmp_path / "run")
    assert failed.code == 2
    assert f"refer to sample {'0' * 32}, which is not in this data set" in failed.one_error()
    assert not (tmp_path / "run").exists()


def test_a_data_set_of_another_model(made: Made, tiny_pipeline: Path, tmp_path: Path) -> None:
    failed = call(train.app, "offline", made.data, "--out", tmp_path / "run", "--model", tiny_pipeline)
    assert failed.code == 2
    assert "was made by another model (scenes" in failed.one_error()
    assert "give the model that made the data" in failed.one_error()
    assert not (tmp_path / "run").exists()


def test_drift_over_the_clip(made: Made, tmp_path: Path) -> None:
    words = ["--batch-size", 1, "--log-ratio-clip", 1e-9]
    failed = call(train.app, "offline", made.data, "--out", tmp_path / "run", *words)
    assert failed.code == 1
    assert "replayed log-probabilities differ from the stored ones" in failed.one_error()
    assert "ppod-data log-probs" in failed.one_error()
    assert not (tmp_path / "run").exists()


def test_a_damaged_table(copy: Path) -> None:
    part = copy / "samples" / "000001.parquet"
    flip(part, part.read_bytes().index(b"PNG") + 50)  # in the first image
    shutil.rmtree(copy / "scores")
    failed = call(score.app, copy)
    assert failed.code == 3
    assert f"{part}: damaged" in failed.one_error()


def test_a_damaged_trajectory(copy: Path, tmp_path: Path) -> None:
    for tar in (copy / "trajectories").glob("*.tar"):
        flip(tar, 2000)  # inside the first member that holds latents
    failed = call(data.app, "log-probs", copy, "--name", "again")
    assert failed.code == 3
    assert f"{copy / 'trajectories'}" in failed.one_error()
    assert "get it again, or remove samples/000000.parquet and run ppod-gen" in failed.one_error()
    assert not list((copy / "log_probs").rglob("*.parquet"))


def test_a_full_disk_keeps_what_is_finished(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    words = [root, "--prompts", made.folder / "prompts.txt", *GEN]
    assert call(gen.app, *words, "--shards", "0:1").code == 0
    before = files(root)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        failed = call(gen.app, *words)
    assert failed.code == 1
    assert failed.one_error().startswith("no space left")
    assert failed.one_error().endswith("free space and run the same command again: finished shards are kept")
    assert files(root) == before
    assert call(gen.app, *words).code == 0
    assert {k: v for k, v in files(root).items() if k.startswith(("samples", "trajectories", "ppod"))} == {
        k: v for k, v in files(made.data).items() if k.startswith(("samples", "trajectories", "ppod"))
    }


def test_out_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    huge = 2**20  # as many as a spec may ask for
    words = [
        "--num-inference-steps",
        1000,
        "--num-images-per-prompt",
        huge,
        "--batch-size",
        huge,
        "--images-per-shard",
        huge,
    ]
    failed = call(gen.app, tmp_path / "data", "--prompt", "a cat", *words)
    assert failed.code == 1
    assert failed.one_error().startswith("out of memory: lower --batch-size")
    assert "frozen in a data set, so use a new folder" in failed.one_error()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("a\nb"), 2, "a\nb"),
        (DamagedError("x"), 3, "x"),
        (MemoryError(), 1, "out of memory: lower it"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "out of memory: lower it"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), 1, "out of memory: lower it"),
        (
            OSError(errno.EROFS, "Read-only file system", "/x"),
            1,
            "no permission at /x (Read-only file system)",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            1,
            "check the permissions, or give another folder",
        ),
        (OSError(errno.EIO, "Input/output error", "/x"), 1, "Input/output error at /x"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "ZeroDivisionError: division by zero (--debug shows where)",
        ),
    ],
)
def test_every_kind_of_error_has_a_line(error: Exception, code: int, message: str) -> None:
    line, found = explain(error, "ppod-gen", "lower it")
    assert found == code
    assert message in line


def test_weights_over_the_limit_of_a_file_size_name_the_limit(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        with pytest.raises(SafetensorError) as refused:
            save_file({"weight": np.zeros(10_000)}, tmp_path / "weights.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line, code = explain(refused.value, "ppod-train", "")
    assert (line.split(":")[0], code) == ("a file may not be this large", 1)
    assert "raise the limit of ulimit -f" in line


@pytest.fixture
def failing() -> Callable[[BaseException], Callable[..., None]]:
    """A command that fails with the error given."""

    def make(error: BaseException) -> Callable[..., None]:
        commands = new_commands()

        @command(commands, examples=())
        def fail(debug: bool = False) -> None:
            """Fail."""
            raise error

        return entry_point(runner(commands, "fail", out_of_memory=""))

    return make


def test_an_interruption_is_no_traceback(failing: Callable[..., Callable[..., None]]) -> None:
    ended = call(failing(KeyboardInterrupt()))
    assert (ended.code, ended.one_error()) == (130, "interrupted: run the same command again to go on")


def test_a_traceback_needs_debug(failing: Callable[..., Callable[..., None]]) -> None:
    assert call(failing(ConfigError("of\ntwo lines"))).one_error() == "of two lines"
    shown = call(failing(ConfigError("why")), "--debug")
    assert shown.code == 2
    assert "Traceback" in shown.stderr
    assert shown.stderr.endswith("error: why\n")


def test_letters_that_stdout_cannot_hold_are_replaced(made: Made) -> None:
    done = run("data", "info", made.data, cwd=made.folder, PYTHONIOENCODING="ascii")
    assert done.code == 0 and "?" in done.stdout


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("EIO", "Input/output error at a/b: check the disk or the mount, and run the same command again"),
        ("ESTALE", "Stale file handle at a/b: check the disk or the mount, and run the same command again"),
        (
            "EMFILE",
            "too many open files at a/b: raise the limit of ulimit -n, and run the same command again",
        ),
    ],
)
def test_a_read_that_the_system_refuses_says_what_to_do(code: str, advice: str) -> None:
    number = getattr(errno, code)
    assert explain(OSError(number, os.strerror(number), "a/b"), "ppod-data", "") == (advice, 1)
