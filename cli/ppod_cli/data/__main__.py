"""`python -m ppod_cli.data`."""

from ppod_cli.data.main import app

app()
