"""Compilation of the network's repeated blocks for training (`torch.compile`), before its recorded steps are replayed.

Sampling is not compiled: compiled blocks round otherwise, and the bytes of a shard follow from its spec alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ppod_data.diffusion.models.model_folder import reason
from ppod_data.errors import ConfigError


@contextmanager
def compiled_blocks(denoiser: Any, *, on: bool) -> Iterator[None]:
    """Compile the blocks that the network repeats, in place, for batches of any size; the `with` makes the first calls.

    The blocks are those of diffusers' `compile_repeated_blocks`, or, for a network without such a list, the modules
    that diffusers does not split over devices. The names of the weights stay, and so do policies and checkpoints.

    Args:
        on: do nothing otherwise.

    Raises:
        ConfigError: a network without named blocks, or an error of the compiler, such as a missing C++ compiler.
    """
    if not on:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    names = getattr(denoiser, "_repeated_blocks", None) or getattr(denoiser, "_no_split_modules", None) or ()
    blocks = [module for module in denoiser.modules() if type(module).__name__ in names]
    if not blocks:
        raise ConfigError(f"{type(denoiser).__name__} names no blocks to compile: leave out --torch-compile")
    for block in blocks:
        block.compile(dynamic=True)
    try:
        yield
    except TorchDynamoException as error:
        raise ConfigError(
            f"torch.compile cannot compile the network ({reason(error, 200)}): leave out --torch-compile"
        ) from error
