"""LoRA files: read whole in the forms that tools write, and put into a pipeline at their scale, or refused.

Every tensor of a file becomes a tensor of the pipeline. A layer's scale (alpha / rank, or alpha / √rank under rsLoRA)
is multiplied into its second factor, so that sampling, training and saving need no other number.

Shapes: r rank. A linear layer's factors are down [r, in] and up [out, r].
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ppod_data.diffusion.adapters.config import Scales, read_scales
from ppod_data.diffusion.families.family import Family
from ppod_data.support.runtime import quiet_pipelines

_NAME = "default"
_SHOWN = 3

# In file names of kohya's tools: the component, and the module with underscores for dots.
_KOHYA = re.compile(r"lora_(unet|te|te1|te2)_(\w+)\.lora_?[._](?:down|up|A|B)\.(?:weight|bias)")
_KOHYA_ENCODERS = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}
_ORIGINAL_BLOCKS = re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks)_")

_FACTOR = re.compile(
    r"(?P<module>.+?)\.(?:(?:lora_|lora\.|lora_linear_layer\.)(?P<factor>A|B|down|up)\.(?P<kind>weight|bias)"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.weight)?)"
)
_OLD_FACTOR = re.compile(
    r"(?P<module>.+?)(?:\.processor)?\.to_(?P<projection>q|k|v|out)_lora\.(?P<factor>down|up)\.weight"
)
_UPS = (".lora_B.weight", ".lora_up.weight", ".lora.up.weight", ".lora_linear_layer.up.weight")


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraLayer:
    """The low-rank change of one linear or convolutional layer, in fp32, its scale multiplied in."""

    down: torch.Tensor
    up: torch.Tensor
    up_bias: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None
    """DoRA's: the norm of each row of the changed weights."""

    @property
    def rank(self) -> int:
        """The rank r."""
        return self.down.shape[0]


LoraLayers = Mapping[str, Mapping[str, LoraLayer]]
"""Name of a component (`unet`, `text_encoder`) -> name of a module in it -> its layer."""


def read_lora(file: Path, pipeline: Any, family: Family) -> LoraLayers:
    """Read every layer of a LoRA file for a pipeline.

    Raises:
        ValueError: a tensor that is no part of a LoRA of this pipeline, a half of a layer, a scale that contradicts
            itself, values that are not finite, or nothing at all.
    """
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in list(opened.keys())}
        header = dict(opened.metadata() or {})
    _refuse_strange(tensors)
    scales = read_scales(file, header, (family.denoiser, *family.text_encoders))
    tensors = _original_blocks_renamed(tensors, pipeline)
    tensors = _original_modules_renamed(tensors, pipeline)
    modules = {name: _layers_of(pipeline, name) for name in (family.denoiser, *family.text_encoders)}
    parts: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    unknown = []
    for key, value in tensors.items():
        if key.endswith(".alpha") and any(f"{key.removesuffix('.alpha')}{up}" in tensors for up in _UPS):
            named, role = _place(f"{key.removesuffix('.alpha')}.lora_up.weight", modules, family), "alpha"
        else:
            named, role = _place(key, modules, family), _role(key)
        if named is None or role in parts.get(named, ()):
            unknown.append(key)
        else:
            parts.setdefault(named, {})[role] = value
    if unknown:
        raise ValueError(
            f"{len(unknown)} of its {len(tensors)} tensors have no place in it: {_some(unknown)}"
        )
    layers: dict[str, dict[str, LoraLayer]] = {}
    for (component, module), tensors_of in parts.items():
        layer = _layer(f"{component}.{module}", tensors_of, scales.get(component))
        layers.setdefault(component, {})[module] = layer
    for component, of_component in layers.items():
        _check_magnitudes(component, of_component, scales.get(component))
    return layers


def add_lora(component: Any, layers: Mapping[str, LoraLayer], *, seed: int = 0) -> None:
    """Add LoRA layers of these shapes to a network: new ones, under which it computes what it did.

    Args:
        seed: of the first factors.
    """
    from peft import LoraConfig, inject_adapter_in_model

    rank, _ = Counter(layer.rank for layer in layers.values()).most_common(1)[0]
    ranks = {f"^{re.escape(name)}$": layer.rank for name, layer in layers.items() if layer.rank != rank}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=ranks,
        alpha_pattern=dict(ranks),
        lora_dropout=0.0,
        target_modules="|".join(re.escape(name) for name in sorted(layers)),
        use_dora=any(layer.magnitude is not None for layer in layers.values()),
        lora_bias=any(layer.up_bias is not None for layer in layers.values()),
    )
    with torch.random.fork_rng(devices=[]), quiet_pipelines():
        torch.manual_seed(seed)
        if hasattr(component, "add_adapter"):
            component.add_adapter(config, adapter_name=_NAME)
        else:  # diffusers' PixArt
            inject_adapter_in_model(config, component, _NAME)


@torch.no_grad()
def set_lora(component: torch.nn.Module, layers: Mapping[str, LoraLayer]) -> None:
    """Give a network's LoRA layers these values, kept in fp32 whatever the network computes in.

    Raises:
        ValueError: a layer of another shape than the network's.
    """
    modules = dict(component.named_modules())
    for name, layer in layers.items():
        module = modules[name]
        pairs: list[tuple[str, Any, torch.Tensor]] = [
            ("down", module.lora_A[_NAME], layer.down),
            ("up", module.lora_B[_NAME], layer.up),
        ]
        if layer.magnitude is not None:
            pairs.append(("magnitude", module.lora_magnitude_vector[_NAME], layer.magnitude))
        for part, target, value in pairs:
            if target.weight.shape != value.shape and target.weight.numel() != value.numel():
                raise ValueError(
                    f"its {part} of {name} has shape {list(value.shape)}, and {list(target.weight.shape)} is needed"
                )
            target.weight.data = value.reshape(target.weight.shape).to(target.weight.device, torch.float32)
        if layer.up_bias is not None:
            target = module.lora_B[_NAME]
            target.bias.data = layer.up_bias.to(target.bias.device, torch.float32)


def _refuse_strange(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ConfigError for tensors that no LoRA of a pipeline holds."""
    if not tensors:
        raise ValueError("the file is empty")
    if strange := [key for key in tensors if re.search(r"\.(hada|lokr)_|\.dora_scale$", key)]:
        raise ValueError(f"LoHa, LoKr and kohya's DoRA are not served: {_some(strange)}")
    if strange := [key for key in tensors if re.search(r"\.lora_[AB]\.\w+\.(weight|bias)$", key)]:
        raise ValueError(
            f"it is a network's own state, which does not say its scale ({_some(strange)}): of a checkpoint, "
            "ppod-train export CHECKPOINT --out DIR makes a policy; other tools write one by pipe.save_lora_weights"
        )
    for key, value in tensors.items():
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise ValueError(f"{key} has values that are no finite numbers")


def _original_blocks_renamed(tensors: dict[str, torch.Tensor], pipeline: Any) -> dict[str, torch.Tensor]:
    """Stable Diffusion XL's kohya files name blocks as the original code does: by diffusers' names instead."""
    if not any(map(_ORIGINAL_BLOCKS.match, tensors)):
        return tensors
    alphas = {key: value for key, value in tensors.items() if key.endswith(".alpha")}
    folded = {key: value for key, value in tensors.items() if key not in alphas}
    for key, alpha in alphas.items():
        up, down = (f"{key.removesuffix('.alpha')}.lora_{factor}.weight" for factor in ("up", "down"))
        if up not in tensors or down not in tensors:
            raise ValueError(f"{key} has no layer")
        folded[up] = _scaled(tensors[up], float(alpha) / tensors[down].shape[0])
    with quiet_pipelines():
        renamed, _ = pipeline.lora_state_dict(dict(folded), unet_config=pipeline.unet.config)
    if len(renamed) != len(folded):
        raise ValueError(f"diffusers converts {len(renamed)} of its {len(folded)} tensors")
    return dict(renamed)


def _original_modules_renamed(tensors: dict[str, torch.Tensor], pipeline: Any) -> dict[str, torch.Tensor]:
    """Return tensors of a file for ComfyUI, as ai-toolkit writes it, under diffusers' names, scales multiplied in."""
    if not all(key.startswith("diffusion_model.") for key in tensors):
        return tensors
    if not hasattr(pipeline, "lora_state_dict"):
        raise ValueError("it is for ComfyUI, which diffusers does not read for this model: give peft's files")
    with quiet_pipelines():
        renamed = dict(pipeline.lora_state_dict(dict(tensors)))
    if len(renamed) < sum(not key.endswith(".alpha") for key in tensors):
        raise ValueError(f"diffusers converts {len(renamed)} of its {len(tensors)} tensors")
    return renamed


def _place(key: str, modules: Mapping[str, Mapping[str, str]], family: Family) -> tuple[str, str] | None:
    """(component, module) that a key of a file belongs to; None where the pipeline has no such module.

    Args:
        modules: component -> what its modules are called in files -> their names.
    """
    if match := _KOHYA.fullmatch(key):
        component = _KOHYA_ENCODERS.get(match[1], family.denoiser)
        return _found(component, match[2], modules.get(component, {}), "text_model_")
    key = key.removeprefix("base_model.model.")
    named = [name for name in modules if key.startswith(f"{name}.")]
    component = named[0] if named else family.denoiser
    rest = key.removeprefix(f"{component}.")
    names = modules[component]
    if match := _OLD_FACTOR.fullmatch(rest):
        in_encoder = component != family.denoiser
        suffix = match["projection"] if match["projection"] != "out" or in_encoder else "out.0"
        projection = f"{suffix}_proj" if in_encoder else f"to_{suffix}"
        return _found(component, f"{match['module']}.{projection}", names, "text_model.")
    if match := _FACTOR.fullmatch(rest):
        return _found(component, match["module"], names, "text_model.")
    return None


def _found(component: str, module: str, names: Mapping[str, str], prefix: str) -> tuple[str, str] | None:
    """Find a module; those of a CLIP text encoder are under `text_model` or not, by the version that wrote the file."""
    for name in (module, module.removeprefix(prefix), f"{prefix}{module}"):
        if name in names:
            return component, names[name]
    return None


def _layers_of(pipeline: Any, component: str) -> dict[str, str]:
    """Return the names of modules that can have a LoRA layer, by their names with dots and with underscores."""
    network = getattr(pipeline, component, None)
    if network is None:
        return {}
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    names = [name for name, module in network.named_modules() if isinstance(module, kinds)]
    plain = [name.removesuffix(".base_layer") for name in names if ".lora_" not in name]
    return {name.replace(".", "_"): name for name in plain} | {name: name for name in plain}


def _role(key: str) -> str:
    if key.endswith((".lora_magnitude_vector", ".lora_magnitude_vector.weight")):
        return "magnitude"
    factor = "up" if re.search(r"(_B|[._]up)\.(weight|bias)$", key) else "down"
    return f"{factor}_bias" if key.endswith(".bias") else factor


def _layer(name: str, parts: Mapping[str, torch.Tensor], scales: Scales | None) -> LoraLayer:
    """One layer of its tensors, its scale multiplied in. Raises ValueError for a half of one."""
    if missing := {"down", "up"} - parts.keys():
        raise ValueError(f"of {name} the file has no {min(missing)}: a half of a layer")
    if "down_bias" in parts:
        raise ValueError(f"{name} has a bias in its first factor, which is not served")
    down, up = parts["down"], parts["up"]
    if up.ndim < 2 or down.ndim < 2 or up.shape[1] != down.shape[0]:
        raise ValueError(f"the factors of {name} do not fit: {list(down.shape)} and {list(up.shape)}")
    rank = down.shape[0]
    if "alpha" in parts and scales is not None:
        raise ValueError(f"{name} has an alpha of its own, and the header says another")
    scale = 1.0 if scales is None else scales.scale(name.split(".", 1)[1], rank)
    if "alpha" in parts:
        scale = float(parts["alpha"]) / rank
    if scale == 0:
        raise ValueError(f"{name} has the scale 0: it has no effect")
    layer = LoraLayer(down=down.float(), up=_scaled(up, scale))
    if "up_bias" in parts:
        layer = replace(layer, up_bias=_scaled(parts["up_bias"], scale))
    if "magnitude" in parts:
        layer = replace(layer, magnitude=parts["magnitude"].float())
    return layer


def _scaled(value: torch.Tensor, scale: float) -> torch.Tensor:
    return value.float() if scale == 1 else (value.double() * scale).float()


def _check_magnitudes(component: str, layers: Mapping[str, LoraLayer], scales: Scales | None) -> None:
    """DoRA is of all layers of a component or of none."""
    with_magnitude = sum(layer.magnitude is not None for layer in layers.values())
    if with_magnitude not in (0, len(layers)) or (scales is not None and scales.dora != bool(with_magnitude)):
        raise ValueError(
            f"{with_magnitude} of {len(layers)} layers of {component} have DoRA's magnitude, "
            + (
                "and the header says that all do"
                if scales is not None and scales.dora
                else "and all or none must"
            )
        )


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(sorted(keys)[:_SHOWN]) + more
