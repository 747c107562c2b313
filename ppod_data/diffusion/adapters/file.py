"""Where the weights of an adapter are, and its identity."""

import hashlib
import re
from pathlib import Path

from ppod_data.diffusion.adapters.config import CONFIG_FILE, PEFT_FILE
from ppod_data.errors import ConfigError
from ppod_data.storage.files import refuse_pointer_file, sha256_file

LORA_FILE = "pytorch_lora_weights.safetensors"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def adapter_file(adapter: str) -> Path:
    """Return the weights file of an adapter, a folder or a file. Raises ConfigError if there is none."""
    path = Path(adapter)
    if path.is_dir():
        for name in (LORA_FILE, PEFT_FILE):
            if (path / name).is_file():
                refuse_pointer_file(path / name)
                return path / name
        raise ConfigError(_no_weights(path))
    if path.name == "weights.safetensors" and path.with_name("state.json").is_file():
        raise ConfigError(_no_weights(path.parent))
    if not path.exists():
        missing = f"adapter {adapter} is not here: give a folder with {LORA_FILE}, or a .safetensors file"
        if _HUB_ID.fullmatch(adapter):
            missing += f"; from the Hugging Face Hub, hf download {adapter} --local-dir FOLDER gets one"
        raise ConfigError(missing)
    if not path.is_file() or path.suffix != ".safetensors":
        raise ConfigError(f"adapter {adapter} is no .safetensors file: pickled weights are never loaded")
    refuse_pointer_file(path)
    return path


def adapter_fingerprint(fingerprint: str, weights: Path) -> str:
    """Return the fingerprint of a pipeline, whose own is `fingerprint`, with the LoRA weights of a file on top."""
    identity = f"{fingerprint}+{sha256_file(weights)}"
    if weights.name == PEFT_FILE:  # whose scale is in another file
        identity += f"+{sha256_file(weights.with_name(CONFIG_FILE))}"
    return hashlib.sha256(identity.encode()).hexdigest()


def _no_weights(path: Path) -> str:
    """Describe a folder without LoRA weights, and name what to give instead."""
    text = f"adapter {path} holds no LoRA weights ({LORA_FILE} or {PEFT_FILE})"
    if (path / "state.json").is_file() and (path / "weights.safetensors").is_file():
        return f"{path} is a checkpoint of ppod-train, not a policy: ppod-train export {path} --out DIR makes one of it"
    if any((path / "policy" / name).is_file() for name in (LORA_FILE, PEFT_FILE)):
        return f"{text}: give {path / 'policy'}"
    for folder in (path, path / "policy"):
        if (folder / "model_index.json").is_file():
            return f"{text}: {folder} is a whole pipeline: give it as --model"
    if checkpoints := sorted((path / "checkpoints").glob("step-*")):
        return f"{text}, but checkpoints: ppod-train export {checkpoints[-1]} --out DIR makes a policy of one"
    files = sorted(file.name for file in path.glob("[!.]*.safetensors"))
    if len(files) == 1:
        return f"{text}: give {path / files[0]}"
    if any(path.glob("*.bin")):
        return f"{text}: pickled weights (.bin) are never loaded: save them anew with pipe.save_lora_weights"
    return f"{text}: give the folder of a policy, RUN/policy, or a .safetensors file"
