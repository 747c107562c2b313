"""Writing of the trained parts as package data: a diffusers pipeline folder in fp16, and the scorers' weights."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import nn

from ppod_data.scenes.training.models import build_scheduler


def build_pipeline(vae: Any, text_encoder: Any, tokenizer: Any, unet: Any) -> Any:
    """Build a `StableDiffusionPipeline` without safety checker from the trained parts."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write_pipeline(pipeline: Any, folder: Path) -> None:
    """Replace `folder` by the pipeline in fp16. The given parts are converted to fp16."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        pipeline.to(dtype=torch.float16).save_pretrained(new, safe_serialization=True)
        for file in new.rglob("*.safetensors"):
            file.chmod(0o644)  # the default is readable by the owner only
        _write_vocabulary(new / "tokenizer")
        _load_as_float32(new / "text_encoder" / "config.json")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def _load_as_float32(config: Path) -> None:
    """Set fp32 in the text encoder's configuration.

    Transformers 5 would load it in the files' fp16 while diffusers loads UNet and VAE in fp32. The pipeline
    would then fail at its first multiplication.
    """
    settings = json.loads(config.read_text())
    settings.pop("torch_dtype", None)
    config.write_text(json.dumps({**settings, "dtype": "float32"}, indent=2, sort_keys=True) + "\n")


def _write_vocabulary(folder: Path) -> None:
    """Write vocab.json and merges.txt beside tokenizer.json, for transformers 4."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")


def write_weights(network: nn.Module, path: Path) -> None:
    """Write the network's weights in fp16, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    weights = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    save_file(weights, partial)
    partial.chmod(0o644)
    os.replace(partial, path)
