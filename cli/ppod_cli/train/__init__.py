"""ppod-train: train policies and evaluate them."""

from ppod_cli.train.main import app, commands

__all__ = ["app", "commands"]
