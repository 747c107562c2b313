"""Commands run as users run them: by a subprocess, or by the same entry point in this process where torch is there."""

import gc
import io
import multiprocessing
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from ppod_cli import data, gen, pair, score, train

REPOSITORY = Path(__file__).parents[2]
_APPS: dict[str, Callable[..., None]] = {
    "ppod-gen": gen.app,
    "ppod-score": score.app,
    "ppod-pair": pair.app,
    "ppod-train": train.app,
    "ppod-data": data.app,
}


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    stdout: str
    stderr: str

    def one_error(self) -> str:
        """The error, which must be the only line of a failed command."""
        assert self.code != 0
        lines = self.stderr.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self.stderr
        assert "Traceback" not in self.stderr
        assert self.stdout == ""
        return lines[-1].removeprefix("error: ")


def run(command: str, *arguments: object, cwd: Path, **environment: str) -> Result:
    """Run `python -m ppod_cli.<command>` in the folder `cwd`."""
    folders = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'cli'}"
    done = subprocess.run(
        [sys.executable, "-m", f"ppod_cli.{command}", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": folders} | environment,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def fork(app: Callable[..., None], *arguments: object, cwd: Path) -> BaseProcess:
    """Start a command in a process of its own, forked from this one, which has imported what it needs."""
    process = multiprocessing.get_context("fork").Process(target=_call_silently, args=(app, arguments, cwd))
    process.start()
    return process


def _call_silently(app: Callable[..., None], arguments: tuple[object, ...], cwd: Path) -> None:
    gc.freeze()  # a collection would otherwise visit, and so copy, every object of the parent
    os.chdir(cwd)
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        app([str(argument) for argument in arguments])


def call(app: Callable[..., None], *arguments: object) -> Result:
    """Run a command's entry point in this process."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
        app([str(argument) for argument in arguments])
    return Result(int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue())


def ran(line: str, *more: object) -> Result:
    """Run a command line, split as a shell would, with more options; assert that it succeeds."""
    name, *words = shlex.split(line)
    done = call(_APPS[name], *words, *more)
    assert done.code == 0, f"{line}: {done.stderr}"
    return done


def following(done: Result, choice: str = "", **words: str) -> str:
    """Return the command of the only line `next: …` or `next, CHOICE: …`, its placeholders replaced by `words`."""
    begin = f"next, {choice}: " if choice else "next: "
    (line,) = [line.removeprefix(begin) for line in done.stdout.splitlines() if line.startswith(begin)]
    for placeholder in words:
        assert shlex.split(line).count(placeholder) == 1, f"{placeholder} is not in {line}"
    return shlex.join(words.get(word, word) for word in shlex.split(line))
