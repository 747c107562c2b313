"""`python -m ppod_cli.pair`."""

from ppod_cli.pair.main import app

app()
