"""Rows of the calls of all UNets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel


@contextmanager
def network_rows() -> Iterator[set[int]]:
    """Yield the set of batch sizes with which UNets are called inside the block."""
    rows: set[int] = set()

    def note(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, UNet2DConditionModel):
            rows.add(len(arguments[0]))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield rows
    finally:
        handle.remove()
