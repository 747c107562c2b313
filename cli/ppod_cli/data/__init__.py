"""ppod-data: look at, check and share data sets."""

from ppod_cli.data.main import app, commands

__all__ = ["app", "commands"]
