"""`python -m ppod_cli.data`."""

from ppod_cli.data.main import app

if __name__ == "__main__":
    app()
