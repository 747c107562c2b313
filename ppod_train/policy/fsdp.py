"""Sharding of all weights over the processes (torch's FSDP2), configured by `accelerate`.

Each process keeps its rows of every weight, of its gradient and of the optimizer's moments. The weights of one part of
the network are gathered when they are needed. Every process therefore calls the network together with the others, in
both directions, and the gradient is summed in the backward pass. Checkpoints and policies are written unsharded, as
those of a single process, and resume with any number of processes, sharded or not.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ppod_data.errors import ConfigError
from ppod_train.settings import TrainSettings


def is_sharding_configured() -> bool:
    """Return True if `accelerate launch` configures FSDP.

    Raises:
        ConfigError: a choice of its configuration that the trainer would ignore.
    """
    if not is_set("ACCELERATE_USE_FSDP"):
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError("accelerate's configuration asks for FSDP 1: set fsdp_version to 2")
    for variable, instead in (
        ("FSDP_OFFLOAD_PARAMS", "set fsdp_offload_params to false, and use more processes"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "leave it out, and give --gradient-checkpointing"),
    ):
        if is_set(variable):
            raise ConfigError(
                f"accelerate's configuration sets {variable}, which ppod does not support: {instead}"
            )
    return True


def is_set(variable: str) -> bool:
    """Return True if a variable of `accelerate launch` is set to true."""
    return os.environ.get(variable, "false").lower() in ("true", "1")


def check_can_shard(settings: TrainSettings) -> None:
    """Raise ConfigError for settings that sharded weights do not support."""
    for unsupported, problem in (
        (settings.rank > 0, "trains all weights: give --lora-rank 0, or leave FSDP out for LoRA"),
        (settings.ema_decay > 0, "has no moving average: leave --ema-decay out"),
        (settings.torch_compile, "compiles no blocks: leave --torch-compile out"),
        (settings.gradient == "one-pass", "keeps no graph of several calls: leave --gradient one-pass out"),
    ):
        if unsupported:
            raise ConfigError(f"FSDP {problem}")


def shard(network: torch.nn.Module, device: str) -> dict[str, torch.nn.Parameter]:
    """Shard a network over the processes in place and return its new parameters by name.

    The units of gathering are those of accelerate's `fsdp_auto_wrap_policy`.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    plugin = FullyShardedDataParallelPlugin()
    mesh = init_device_mesh(torch.device(device).type, (torch.distributed.get_world_size(),))
    is_part = fsdp2_prepare_auto_wrap_policy(plugin, network)
    parts = [part for part in reversed(list(network.modules())) if is_part is not None and is_part(part)]
    for part in parts:
        if part is not network and not isinstance(part, torch.nn.ModuleList):  # a list has no forward
            fully_shard(part, mesh=mesh, reshard_after_forward=plugin.reshard_after_forward)
    fully_shard(network, mesh=mesh)
    for part in network.modules():
        if isinstance(part, FSDPModule):  # sum over processes instead of the mean, on every backend
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    return dict(network.named_parameters())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all rows of a sharded tensor, or the tensor itself; every process must call this function."""
    full: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Place an unsharded tensor as the parameter is: on its device, and sharded if the parameter is."""
    value = value.to(parameter.device)
    if not hasattr(parameter, "full_tensor"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


@contextmanager
def gathered(network: torch.nn.Module) -> Iterator[None]:
    """Keep all weights in every process inside the block, so that each calls the network independently."""
    from torch.distributed.fsdp import FSDPModule

    parts = [part for part in network.modules() if isinstance(part, FSDPModule)]
    keeps = [_reshards(part) for part in parts]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part, reshards in zip(parts, keeps, strict=True):
            part.set_reshard_after_forward(reshards, recurse=False)
            part.reshard()


def _reshards(part: Any) -> bool:
    return any(group._reshard_after_forward for group in part._get_fsdp_state()._fsdp_param_groups)


@contextmanager
def whole_network(model: Any, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Replace the pipeline's sharded network by an unsharded one with `weights` inside the block."""
    sharded, name = model.denoiser, model.family.denoiser
    network_class: Any = type(sharded).__bases__[1]  # FSDP's class is the first base
    plain = network_class.from_config(sharded.config)
    plain.load_state_dict(weights)
    model.pipeline.register_modules(**{name: plain})
    try:
        yield
    finally:
        model.pipeline.register_modules(**{name: sharded})
