"""Claim: memory does not grow with the data set: ten times the samples take at most 1.1 times the peak memory.

Peak resident memory of whole processes, `ppod-gen` and `ppod-train offline`, as the operating system counts it, on the
embedded model: 256 samples against 2,560, shards of 64, 4 steps; training for two steps without evaluation, on as many
pairs as samples.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import Report, is_quick

PROMPT = "a dog on the moon"


def peak(*words: str | Path | int) -> int:
    """Peak resident memory of a command, in KiB."""
    command = [sys.executable, "-m", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return usage.ru_maxrss


def generate(root: Path, count: int) -> int:
    """Return the peak memory of ppod-gen for `count` images of a prompt."""
    options = ["--num-images-per-prompt", count, "--num-inference-steps", 4, "--images-per-shard", 64]
    return peak("ppod_cli.gen", root, "--prompt", PROMPT, *options)


def train(root: Path, count: int, out: Path) -> int:
    """Return the peak memory of training on `count` images of a prompt."""
    peak("ppod_cli.score", root)
    peak("ppod_cli.pair", "rank", root, "--num-pairs-per-prompt", count)
    return peak("ppod_cli.train", "offline", root, "--out", out, "--num-train-steps", 2, "--eval-every", 0)


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    few, many = (64, 128) if quick else (256, 2560)
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        made = [generate(place / str(count), count) for count in (few, many)]
        report.add(f"ppod-gen: peak memory, {many} samples / {few}", [made[1] / made[0]], bound=1.1)
        trained = [train(place / str(count), count, place / f"run-{count}") for count in (few, many)]
        report.add(f"ppod-train: peak memory, {many} samples / {few}", [trained[1] / trained[0]], bound=1.1)
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
