"""A network that stays as it is while the same network trains, such as the policy that made the data of a stage."""

import copy
from collections.abc import Mapping

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.guidance import Network
from ppod_data.diffusion.models.model import DiffusionModel, network_of
from ppod_train.policy.policy import policy_weights


def frozen_network(
    model: DiffusionModel, parameters: Mapping[str, torch.nn.Parameter], *, lora_rank: int
) -> Network:
    """Return the network as it is now, with its trained weights; it stays so during training."""
    if lora_rank == 0:
        return network_of(model, copy.deepcopy(model.denoiser))
    inner = network_of(model, model.denoiser)
    values = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def with_values(latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        with policy_weights(parameters, values):
            return inner(latents, timesteps, condition)

    return with_values
