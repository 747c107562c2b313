"""The README's commands, run as printed by a newcomer: a new HOME, a new environment, and no source tree afterwards.

Usage: python -m tests.support.readme_check

The checkout is that of HEAD. `pip install .` runs in it, as printed, and the checkout is removed. The five commands and
the Python example then run in empty folders of their own. Times and sizes are printed beside those of the README.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INSTALL = "pip install ."
KEPT = (
    "LANG",
    "LC_ALL",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
SIZE_TOLERANCE = 0.2
"""Relative difference of the installed size from the README's figure, which is rounded to a gigabyte."""


def readme_blocks(text: str) -> tuple[list[str], list[str], str]:
    """Return the commands of Install, those of Use, and the Python example of a README."""
    install, use, *_ = [body for language, body in FENCE.findall(text) if language == "bash"]
    (example,) = [body for language, body in FENCE.findall(text) if language == "python"]
    commands = [[line.partition("#")[0].strip() for line in block.splitlines()] for block in (install, use)]
    return commands[0], commands[1], example


def stated(text: str) -> tuple[float, float, float]:
    """Return what a README says: gigabytes of the installation, and minutes of the commands and of the example."""
    size = re.search(r"about (\d+) GB", text)
    minutes = re.search(
        r"five commands take about (\d+) minutes.*?In Python, about (\d+) minutes", text, re.DOTALL
    )
    assert size and minutes, "the README gives the size of the installation and the minutes of its commands"
    return float(size[1]), float(minutes[1]), float(minutes[2])


def gigabytes(folder: Path) -> float:
    """Return the size of the files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e9


def timed(title: str, command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Run a command in a folder; exit with its output if it fails. Return its seconds."""
    print(f"\n$ {title}", flush=True)
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, check=False)
    seconds = time.monotonic() - start
    print(done.stdout[-1500:], done.stderr[-1500:], f"({seconds:.0f} s)", sep="", flush=True)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {title}")
    return seconds


def check(place: Path) -> None:
    """Install from a checkout in `place` and run the README's commands."""
    text = (ROOT / "README.md").read_text("utf-8")
    install, use, example = readme_blocks(text)
    assert install[0] == INSTALL and len(use) == 5
    for name in ("home", "checkout", "commands", "python"):
        (place / name).mkdir()
    archive = subprocess.run(["git", "-C", ROOT, "archive", "HEAD"], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", place / "checkout"], input=archive, check=True)
    subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True)
    environment = {
        name: value for name, value in os.environ.items() if name in KEPT or name.startswith("PIP_")
    }
    environment |= {"HOME": str(place / "home"), "PATH": f"{place / 'venv/bin'}:/usr/local/bin:/usr/bin:/bin"}

    installing = timed(INSTALL, ["bash", "-c", INSTALL], place / "checkout", environment)
    shutil.rmtree(place / "checkout")
    size = gigabytes(place / "venv")
    commands = sum(timed(line, ["bash", "-c", line], place / "commands", environment) for line in use)
    for made in ("data/samples", "run/policy/pytorch_lora_weights.safetensors", "result/summary.json"):
        assert (place / "commands" / made).exists(), made
    in_python = timed("the Python example", ["python", "-c", example], place / "python", environment)

    gigabytes_said, minutes_said, minutes_said_in_python = stated(text)
    print(
        f"\ninstall: {size:.1f} GB in {installing / 60:.1f} minutes (README: about {gigabytes_said:g} GB)"
        f"\nthe five commands: {commands / 60:.1f} minutes (README: about {minutes_said:g})"
        f"\nthe Python example: {in_python / 60:.1f} minutes (README: about {minutes_said_in_python:g})"
        f"\nmade: {1000 * gigabytes(place / 'commands'):.0f} MB; in HOME: {1000 * gigabytes(place / 'home'):.0f} MB"
    )
    if abs(size / gigabytes_said - 1) > SIZE_TOLERANCE:
        sys.exit(f"the installation takes {size:.1f} GB, and the README says {gigabytes_said:g}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ppod-readme-") as folder:
        check(Path(folder))
