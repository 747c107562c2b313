"""How many CPU threads a recorded number was computed with: always one.

The last bits of a convolution or a matrix product depend on how many threads share it. A shard is a pure function of
its spec on any number of cores, so sampling and scoring use one thread a process on a CPU; more cores are used by more
workers.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Compute on one CPU thread inside the block; nothing changes for another device."""
    import torch  # here, since tables are read without it

    before = torch.get_num_threads()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_kind(device: str) -> str:
    """`cuda` of `cuda:3`: what is recorded beside numbers, which do not depend on which of a machine's GPUs it was."""
    import torch

    return torch.device(device).type


_MESSAGES = ("DefaultCPUAllocator", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError, an accelerator's OutOfMemoryError, and the RuntimeError of torch on a CPU."""
    if isinstance(error, MemoryError):
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


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
