"""The trained policy: LoRA weights on the network's attention projections, or all weights.

The reference needs no second network, because its log-probabilities are in the data set. If a KL term or noise
predictions need it, the reference is the network without its LoRA, or a copy of the network if all weights train.
"""

import copy
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ppod_data.diffusion.adapters.config import PEFT_FILE
from ppod_data.diffusion.adapters.file import adapter_file, adapter_fingerprint
from ppod_data.diffusion.adapters.lora import LoraLayer, add_lora, read_lora, set_lora
from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.guidance import Network
from ppod_data.diffusion.models.model import DiffusionModel, network_of
from ppod_data.diffusion.models.model_folder import fingerprint, open_folder, reason, weight_files
from ppod_data.errors import ConfigError
from ppod_data.storage.folders import new_folder
from ppod_train.policy.fsdp import whole_network


def policy_rank(start: Path) -> int:
    """Return the LoRA rank of a saved policy: 0 for a whole pipeline; the most frequent rank of a LoRA's layers.

    Raises:
        ConfigError: `start` is not a policy.
    """
    from safetensors import SafetensorError, safe_open

    if (start / "model_index.json").is_file():
        return 0
    file = adapter_file(str(start))
    try:
        with safe_open(file, framework="pt") as opened:
            keys = [key for key in list(opened.keys()) if re.search(r"([._]A|[._]down)\.weight$", key)]
            ranks = Counter(opened.get_slice(key).get_shape()[0] for key in keys)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"the policy {start} cannot be read: {reason(error)}") from error
    if not ranks:
        raise ConfigError(
            f"the policy {start} holds no LoRA weights: give the folder of a run's policy, RUN/policy"
        )
    return int(ranks.most_common(1)[0][0])


def trainable_parameters(
    model: DiffusionModel,
    *,
    lora_rank: int,
    seed: int,
    start: Path | None = None,
    gradient_checkpointing: bool = False,
) -> dict[str, torch.nn.Parameter]:
    """Make the network trainable in place and return its trained weights by name, in fp32.

    The second factor of a new LoRA is zero, so the policy starts exactly as the reference.

    Args:
        lora_rank: 0 trains all weights.
        seed: seed of LoRA's first factors.
        start: the policy that `start_from` will load; LoRA is added to its layers, at their ranks.
        gradient_checkpointing: keep only the inputs of the network's blocks for the backward pass.

    Raises:
        ConfigError: a model with an adapter, all weights in half precision, or a start that cannot be trained.
    """
    denoiser = model.denoiser
    if getattr(denoiser, "peft_config", None):
        raise ConfigError(
            f"{model.name} has the adapter {model.adapter}, but training starts from a whole pipeline: give the model "
            "without an adapter, and compute its log-probabilities with `ppod-data log-probs`"
        )
    if start is not None:
        _check_rank(start, lora_rank)
    check_precision(lora_rank, model.compute_dtype)
    if lora_rank == 0:
        denoiser.requires_grad_(True)
    else:
        if start is None:
            layers = new_layers(denoiser, model.family.lora_targets, lora_rank)
        else:
            layers = start_layers(model, start)
        add_lora(denoiser, layers, seed=seed)
        for parameter in denoiser.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    return {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def check_precision(lora_rank: int, compute_dtype: str) -> None:
    """Raise ConfigError for all weights in half precision: `compute_dtype` is that of the model and its data."""
    if lora_rank == 0 and compute_dtype != "fp32":
        raise ConfigError(f"all weights train in fp32 only, not {compute_dtype}: use LoRA, or fp32 data")


def start_layers(model: DiffusionModel, start: Path) -> Mapping[str, LoraLayer]:
    """Return the LoRA layers of the policy in `start`, by the names of the network's modules.

    Raises:
        ConfigError: a policy of another network, or with parts that training does not continue.
    """
    try:
        components = read_lora(adapter_file(str(start)), model.pipeline, model.family)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"the policy {start} does not fit {model.name}: {reason(error)}") from error
    layers = components.get(model.family.denoiser, {})
    if other_parts := sorted(components.keys() - {model.family.denoiser}):
        raise ConfigError(
            f"the policy {start} changes the {other_parts[0]} too, which training does not continue: start from a "
            f"policy that changes only the {model.family.denoiser}"
        )
    if any(layer.magnitude is not None or layer.up_bias is not None for layer in layers.values()):
        raise ConfigError(
            f"the policy {start} has DoRA's magnitudes or biases, which training does not continue: start from a "
            "plain LoRA"
        )
    return layers


def start_from(model: DiffusionModel, start: Path) -> str:
    """Load the weights of the policy in the folder `start` into a trainable network, as `load_model` does.

    Returns:
        The fingerprint of that policy, as recorded in the data sets that it makes.

    Raises:
        ConfigError: a policy with other layers, another rank or another network.
    """
    denoiser = model.denoiser
    if getattr(denoiser, "peft_config", None):
        layers = start_layers(model, start)
        trained = [
            name.removesuffix(".lora_A.default")
            for name, _ in denoiser.named_modules()
            if name.endswith(".lora_A.default")
        ]
        if unmatched := sorted(layers.keys() ^ set(trained)):
            raise ConfigError(
                f"the policy {start} does not fit: the layer {unmatched[0]} is in only one of the policy and the "
                "trained network"
            )
        try:
            set_lora(denoiser, layers)
        except ValueError as error:
            raise ConfigError(
                f"the policy {start} does not fit: {error}; leave out --lora-rank to use the policy's rank"
            ) from error
        return adapter_fingerprint(model.fingerprint, adapter_file(str(start)))
    from safetensors.torch import load_file

    folder = open_folder(str(start), start)
    files = weight_files(folder, model.family.denoiser)
    weights = {
        name: value
        for file in files
        if file.suffix == ".safetensors"
        for name, value in load_file(file).items()
    }
    parameters = {name: value for name, value in denoiser.named_parameters() if value.requires_grad}
    for name, parameter in parameters.items():
        if name not in weights or weights[name].shape != parameter.shape:
            raise ConfigError(
                f"the policy {start} does not fit: it has no {name} of shape {tuple(parameter.shape)}; give a policy "
                "of the same network"
            )
        with torch.no_grad():
            parameter.copy_(weights[name])
    return fingerprint(folder, folder.components)


def new_layers(denoiser: torch.nn.Module, targets: Sequence[str], rank: int) -> Mapping[str, LoraLayer]:
    """Return the shapes of new LoRA layers for the modules whose names end in one of `targets`."""
    return {
        name: LoraLayer(
            down=torch.empty(rank, module.in_features, device="meta"),
            up=torch.empty(module.out_features, rank, device="meta"),
        )
        for name, module in denoiser.named_modules()
        if isinstance(module, torch.nn.Linear) and any(f".{name}".endswith(f".{end}") for end in targets)
    }


def _check_rank(start: Path, lora_rank: int) -> None:
    rank = policy_rank(start)
    if rank != lora_rank:
        actual = f"has LoRA rank {rank}" if rank else "is a whole pipeline, of rank 0"
        raise ConfigError(
            f"the policy {start} {actual}, not {lora_rank}: leave out --lora-rank to use the policy's rank"
        )


def reference_network(model: DiffusionModel, *, lora_rank: int) -> Network:
    """Return the network as it is before training; it stays so during training.

    Call this function before `trainable_parameters`.
    """
    denoiser = model.denoiser
    if lora_rank == 0:
        return network_of(model, copy.deepcopy(denoiser))
    inner = network_of(model, denoiser)

    def without_lora(latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        _switch_lora(denoiser, on=False)
        try:
            return inner(latents, timesteps, condition)
        finally:
            _switch_lora(denoiser, on=True)

    return without_lora


def _switch_lora(network: torch.nn.Module, *, on: bool) -> None:
    """Compute with a network's LoRA layers, or without them as before `add_lora`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(enabled=on)


@torch.no_grad()
def update_average(
    average: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.nn.Parameter], decay: float
) -> None:
    """Update average = decay·average + (1 − decay)·weights in place; an empty average stays empty."""
    for name, value in average.items():
        value.lerp_(parameters[name], 1 - decay)


@contextmanager
def policy_weights(
    parameters: Mapping[str, torch.nn.Parameter], average: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Replace the trained weights by the averaged weights inside the block."""
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
    """Write the policy for plain diffusers, replacing `folder` atomically.

    LoRA: `pytorch_lora_weights.safetensors` for `pipe.load_lora_weights(folder)`; peft's own files for
    `PeftModel.from_pretrained(pipe.transformer, folder)` if diffusers has no LoRA for the pipeline (PixArt).
    Otherwise a whole pipeline for `from_pretrained(folder)`.

    Args:
        weights: all weights of the network if the model's weights are sharded.
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
        # The old names do not cover joint attention; diffusers would silently load only a part of a mixed file.
        if model.family.denoiser == "unet":
            renamed = convert_state_dict_to_diffusers(layers)
            layers = layers if any(".lora_A." in name for name in renamed) else renamed
        if hasattr(model.pipeline, "save_lora_weights"):
            model.pipeline.save_lora_weights(temporary, **{f"{model.family.denoiser}_lora_layers": layers})
        else:
            _save_for_peft(denoiser, layers, temporary)


def _save_for_peft(denoiser: Any, layers: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write LoRA layers as `PeftModel.save_pretrained` does."""
    from safetensors.torch import save_file

    named = {f"base_model.model.{name}": value.contiguous() for name, value in layers.items()}
    save_file(named, folder / PEFT_FILE, metadata={"format": "pt"})
    next(iter(denoiser.peft_config.values())).save_pretrained(folder)
