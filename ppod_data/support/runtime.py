"""Process-wide settings: CPU threads, imports of large libraries, out-of-memory errors, and the verbosity of libraries.

Recorded numbers are always computed on one CPU thread. The last bits of a convolution or matrix product depend
on the number of threads. One thread a process makes a shard a pure function of its spec; more cores are used by
more workers.
"""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Compute on one CPU thread inside the block. Other devices are not affected."""
    import torch  # imported here because reading tables needs no torch

    before = torch.get_num_threads()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_kind(device: str) -> str:
    """Return the type of a device, `cuda` for `cuda:3`. Recorded numbers do not depend on the GPU's index."""
    import torch

    return torch.device(device).type


_MESSAGES = ("DefaultCPUAllocator", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return true for MemoryError, an accelerator's OutOfMemoryError, and torch's RuntimeError for CPU memory."""
    if isinstance(error, MemoryError):
        return True
    if any(ancestor.__name__ == "OutOfMemoryError" for ancestor in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


@contextmanager
def importing() -> Iterator[None]:
    """Pause the garbage collector inside the block, in which large libraries are imported.

    They make a million objects and no garbage, and every collection visits all of them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence progress bars and log messages of transformers inside the block; errors still show."""
    with importing():
        from transformers.utils import logging

    with _quiet(logging):
        yield


@contextmanager
def quiet_pipelines() -> Iterator[None]:
    """Silence progress bars and log messages of diffusers and transformers inside the block; errors still show."""
    with importing():
        from diffusers.utils import logging

    with quiet_transformers(), _quiet(logging):
        yield


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    progress_bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    if verbosity != logging.ERROR:  # a change empties the caches of all loggers
        logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if verbosity != logging.ERROR:
            logging.set_verbosity(verbosity)
        if progress_bars:
            logging.enable_progress_bar()
