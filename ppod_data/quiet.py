"""Silence the progress bars, log messages and warnings of libraries that load models; errors still show."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers without progress bars and reports; as before afterwards."""
    from transformers.utils import logging

    with _quiet(logging):
        yield


@contextmanager
def quiet_pipelines() -> Iterator[None]:
    """diffusers and transformers without progress bars and reports; as before afterwards."""
    from diffusers.utils import logging

    with quiet_transformers(), _quiet(logging):
        yield


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
