"""LoRA files of a tiny Stable Diffusion pipeline, in the forms that tools write."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RANK = 4
_ATTENTION = r"to_(q|k|v)$|to_out\.0$"

Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Module -> (down [r, in], up [out, r])."""


def factors(network: torch.nn.Module, which: str = _ATTENTION, *, rank: int = RANK, seed: int = 0) -> Factors:
    """Random factors of every linear or convolutional layer whose name matches."""
    draw = torch.Generator().manual_seed(seed)
    made: Factors = {}
    for name, module in network.named_modules():
        if not re.search(which, name) or not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            continue
        rows, columns, *kernel = module.weight.shape
        down = torch.randn(rank, columns, *kernel, generator=draw) * 0.2
        up = torch.randn(rows, rank, *(1 for _ in kernel), generator=draw) * 0.2
        made[name] = (down, up)
    return made


def named(of: Factors, down: str, up: str) -> dict[str, torch.Tensor]:
    """The tensors of a file; `{}` in the names is the module."""
    return {down.format(name): a for name, (a, _) in of.items()} | {
        up.format(name): b for name, (_, b) in of.items()
    }


def header(rank: int = RANK, alpha: float = RANK, **more: Any) -> dict[str, str]:
    """The header that diffusers writes of a peft configuration."""
    fields = {"r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none", "peft_type": "LORA"}
    fields |= {
        "target_modules": ["to_q", "to_k", "to_v", "to_out.0"],
        "use_dora": False,
        "use_rslora": False,
        **more,
    }
    return {
        "format": "pt",
        "lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in fields.items()}),
    }


def folder(root: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    """A folder as `save_lora_weights` writes it."""
    root.mkdir(parents=True)
    copies = {key: value.clone() for key, value in tensors.items()}
    save_file(copies, root / "pytorch_lora_weights.safetensors", metadata)
    return root


def peft_folder(root: Path, network: torch.nn.Module, *, alpha: float) -> Any:
    """Write a folder of a random LoRA as peft saves it, with its configuration. Return peft's model of it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    config = LoraConfig(r=RANK, lora_alpha=alpha, target_modules=targets, init_lora_weights=False)
    model = get_peft_model(network, config)
    model.save_pretrained(root)
    return model


_NEW = ("unet.{}.lora_A.weight", "unet.{}.lora_B.weight")


def _new(pipeline: Any, root: Path) -> Path:
    return folder(root, named(factors(pipeline.unet), *_NEW))


def _old(pipeline: Any, root: Path) -> Path:
    return folder(root, named(factors(pipeline.unet), "unet.{}.lora.down.weight", "unet.{}.lora.up.weight"))


def _ranks(pipeline: Any, root: Path) -> Path:
    mixed = factors(pipeline.unet) | factors(pipeline.unet, r"attn1.*to_q$", rank=2)
    return folder(root, named(mixed, *_NEW))


def _wider(pipeline: Any, root: Path) -> Path:
    return folder(root, named(factors(pipeline.unet, r"to_(q|out\.0)$|ff\.net|conv1$|proj_in$"), *_NEW))


def _header_alpha(pipeline: Any, root: Path) -> Path:
    return folder(root, named(factors(pipeline.unet), *_NEW), header(alpha=2 * RANK))


def _header_rslora(pipeline: Any, root: Path) -> Path:
    return folder(root, named(factors(pipeline.unet), *_NEW), header(alpha=3, use_rslora=True))


def _header_patterns(pipeline: Any, root: Path) -> Path:
    mixed = factors(pipeline.unet) | factors(pipeline.unet, r"attn1.*to_q$", rank=2)
    patterns = {"rank_pattern": {"attn1.to_q": 2}, "alpha_pattern": {"attn2.to_v": 1, "attn1.to_q": 6}}
    return folder(root, named(mixed, *_NEW), header(alpha=8, **patterns))


def _kohya(pipeline: Any, root: Path) -> Path:
    tensors: dict[str, torch.Tensor] = {}
    for name, (down, up) in factors(pipeline.unet).items():
        key = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
    return folder(root, tensors)


FORMS: Mapping[str, Callable[[Any, Path], Path]] = {
    "new names": _new,
    "old names": _old,
    "several ranks": _ranks,
    "other layers": _wider,
    "alpha in the header": _header_alpha,
    "rsLoRA": _header_rslora,
    "patterns in the header": _header_patterns,
    "kohya, with alpha": _kohya,
}
"""Name -> what writes a folder of it, which diffusers loads."""
