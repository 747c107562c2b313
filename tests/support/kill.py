"""A command of ppod that dies at its n-th write, sync, rename or removal.

Usage: `python -m tests.support.kill N gen ARGUMENT…`.

The fault is put into the interpreter before the command is loaded; the product has no hook for it.
"""

import importlib
import sys

from tests.support.faults import install, kill

if __name__ == "__main__":
    number, command, *arguments = sys.argv[1:]
    install(int(number), kill, forever=False)
    importlib.import_module(f"ppod_cli.{command}").app(arguments)
