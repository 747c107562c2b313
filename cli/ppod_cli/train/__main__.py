"""`python -m ppod_cli.train`."""

from ppod_cli.train.main import app

if __name__ == "__main__":
    app()
