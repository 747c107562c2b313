"""The trained policy: LoRA weights on the network's attention projections, or all of its weights.

The reference needs no second network: its log-probabilities are in the data set. Where a KL term or noise predictions
ask for it, it is the network without its LoRA, or a copy of the network where all weights train.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.guidance import Network
from ppod_data.diffusion.model import (
    DiffusionModel,
    adapter_file,
    adapter_fingerprint,
    fingerprint_folder,
    lora_name,
    network_of,
)
from ppod_data.errors import ConfigError
from ppod_train.folders import new_folder
from ppod_train.sharding import whole_network

_WEIGHTS_FILES = "diffusion_pytorch_model*.safetensors"  # several for a large network


def trainable_parameters(
    model: DiffusionModel, *, lora_rank: int, seed: int, gradient_checkpointing: bool = False
) -> dict[str, torch.nn.Parameter]:
    """Make the network trainable in place and return its trained weights by name, in fp32.

    A new LoRA's second factor is zero, so that the policy starts as the reference, exactly.

    Args:
        lora_rank: 0 trains all weights.
        seed: of LoRA's first factors.
        gradient_checkpointing: keep the inputs of the network's blocks alone for the backward pass.

    Raises:
        ConfigError: a model that has an adapter already; all weights in half precision.
    """
    denoiser = model.denoiser
    if getattr(denoiser, "peft_config", None):
        raise ConfigError(
            f"{model.name} has the adapter {model.adapter}: training starts from a whole pipeline; give the model "
            "without an adapter, and its log-probabilities by `ppod-data log-probs`"
        )
    if lora_rank == 0:
        if model.compute_dtype != "fp32":
            raise ConfigError(
                f"all weights train in fp32 only, not {model.compute_dtype}: use LoRA, or fp32 data"
            )
        denoiser.requires_grad_(True)
    else:
        from peft import LoraConfig

        config = LoraConfig(
            r=lora_rank,
            lora_alpha=lora_rank,
            lora_dropout=0.0,
            target_modules=list(model.family.lora_targets),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            denoiser.add_adapter(config)
        for parameter in denoiser.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    return {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def start_from(model: DiffusionModel, start: Path) -> str:
    """Give a network made trainable the weights of the policy in the folder `start`, as `save_policy` wrote them.

    Returns:
        The fingerprint of that policy, as data sets that it makes have it.

    Raises:
        ConfigError: a policy of another rank or another network.
    """
    from safetensors.torch import load_file

    denoiser = model.denoiser
    lora = bool(getattr(denoiser, "peft_config", None))
    files = (
        [adapter_file(str(start))] if lora else sorted((start / model.family.denoiser).glob(_WEIGHTS_FILES))
    )
    if not files:
        raise ConfigError(f"{start} holds no policy of this kind: {_WEIGHTS_FILES} is what is looked for")
    weights = {name: value for file in files for name, value in load_file(file).items()}
    if lora:
        weights = {f"{lora_name(key)}.default.weight": value for key, value in weights.items()}
    parameters = {name: value for name, value in denoiser.named_parameters() if value.requires_grad}
    if lora and (others := weights.keys() - parameters.keys()):
        raise ConfigError(
            f"the policy {start} does not fit: it has {min(others)}, which is not trained here; start from a policy "
            "that ppod-train wrote"
        )
    for name, parameter in parameters.items():
        if name not in weights or weights[name].shape != parameter.shape:
            raise ConfigError(
                f"the policy {start} does not fit: it has no {name} of shape {tuple(parameter.shape)}; "
                "give the --lora-rank that it was trained with"
            )
        with torch.no_grad():
            parameter.copy_(weights[name])
    if lora:
        return adapter_fingerprint(model.fingerprint, files[0])
    return fingerprint_folder(start)


def reference_network(model: DiffusionModel, *, lora_rank: int) -> Network:
    """The network as it is before training, also after; to be made before `trainable_parameters`."""
    denoiser = model.denoiser
    if lora_rank == 0:
        return network_of(model, copy.deepcopy(denoiser))
    inner = network_of(model, denoiser)

    def without_lora(latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        denoiser.disable_adapters()
        try:
            return inner(latents, timesteps, condition)
        finally:
            denoiser.enable_adapters()

    return without_lora


@torch.no_grad()
def update_average(
    average: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.nn.Parameter], decay: float
) -> None:
    """average = decay·average + (1 − decay)·weights, in place; nothing for an empty average."""
    for name, value in average.items():
        value.lerp_(parameters[name], 1 - decay)


@contextmanager
def policy_weights(
    parameters: Mapping[str, torch.nn.Parameter], average: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """The network as the policy inside the block: with the averaged weights in place of the trained ones."""
    trained = {name: parameters[name].data for name in average}
    for name, value in average.items():
        parameters[name].data = value
    try:
        yield
    finally:
        for name, value in trained.items():
            parameters[name].data = value


def save_policy(
    model: DiffusionModel, folder: Path, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write the policy so that plain diffusers loads it, replacing `folder` at once.

    LoRA: `pytorch_lora_weights.safetensors` for `pipe.load_lora_weights(folder)`. Otherwise a whole pipeline for
    `from_pretrained(folder)`.

    Args:
        weights: all of the network's, where those in the model are sharded.
    """
    denoiser = model.denoiser
    with new_folder(folder) as temporary:
        if not getattr(denoiser, "peft_config", None):
            with nullcontext() if weights is None else whole_network(model, weights):
                model.pipeline.save_pretrained(temporary)
            return
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft.utils import get_peft_model_state_dict

        layers = get_peft_model_state_dict(denoiser)
        # The old names have none for joint attention: of a mixed file diffusers loads a part, without a word.
        if model.family.denoiser == "unet":
            layers = convert_state_dict_to_diffusers(layers)
        model.pipeline.save_lora_weights(temporary, **{f"{model.family.denoiser}_lora_layers": layers})
