"""ppod-pair: make, import, combine and export preference pairs."""

from ppod_cli.pair.main import app, commands

__all__ = ["app", "commands"]
