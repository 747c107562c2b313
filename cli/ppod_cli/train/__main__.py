"""`python -m ppod_cli.train`."""

from ppod_cli.train.main import app

app()
