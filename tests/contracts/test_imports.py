"""Every module imports, and a command's `--help` needs nothing heavier than Typer."""

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

PACKAGES = ("ppod_data", "ppod_train", "ppod_cli")
HEAVY = {"torch", "torchvision", "numpy", "pyarrow", "diffusers", "transformers", "datasets", "PIL"}


def modules_of(package: str) -> list[str]:
    """The package and every module in it, without importing more than the packages themselves."""
    path = importlib.import_module(package).__path__
    return [package, *(module.name for module in pkgutil.walk_packages(path, f"{package}."))]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_imports(package: str) -> None:
    names = modules_of(package)
    assert len(names) > 1
    for name in names:
        importlib.import_module(name)


def test_the_commands_import_nothing_heavy() -> None:
    """In a fresh process, since the tests themselves import torch."""
    program = "\n".join(
        [
            "import importlib, json, sys",
            *(f"importlib.import_module({name!r})" for name in modules_of("ppod_cli")),
            "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert HEAVY & set(json.loads(done.stdout)) == set()
