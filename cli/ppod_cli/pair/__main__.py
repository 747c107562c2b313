"""`python -m ppod_cli.pair`."""

from ppod_cli.pair.main import app

if __name__ == "__main__":
    app()
