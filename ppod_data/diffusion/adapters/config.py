"""The scale of LoRA layers as a file's header, or the adapter_config.json beside it, states it."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER_KEY = "lora_adapter_metadata"
CONFIG_FILE = "adapter_config.json"
PEFT_FILE = "adapter_model.safetensors"

# Fields of peft's LoraConfig that say nothing of what trained layers compute.
_WITHOUT_EFFECT = {
    *("auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules"),
    *(
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "megatron_core",
        "peft_version",
    ),
    *("qalora_group_size", "revision", "runtime_config", "target_modules", "task_type", "lora_bias"),
}
_READ = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),
}
"""Fields that may have these values, or none. Other ways to begin (pissa, olora, …) change the weights beneath."""

# Patterns are regular expressions, and a file is a stranger's: those without repetition end in time.
_PATTERN = re.compile(r"[\w.\\^$-]+")


@dataclass(frozen=True, kw_only=True)
class Scales:
    """How peft scales the layers of one component."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    dora: bool = False

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of a module's change. Raises ValueError for another rank than the header's."""
        stated = _of_pattern(self.rank_pattern, module, self.rank)
        if stated != rank:
            raise ValueError(f"{module} has rank {rank}, and the header says {stated}")
        alpha = _of_pattern(self.alpha_pattern, module, self.alpha)
        return float(alpha) / (math.sqrt(rank) if self.rslora else rank)


def read_scales(file: Path, header: Mapping[str, str], components: tuple[str, ...]) -> dict[str, Scales]:
    """Component -> its scales, where the file or its folder states them; the first component is the denoiser.

    Raises:
        ValueError: text that cannot be read, or a field whose effect is not served.
    """
    if HEADER_KEY in header:
        fields = _parsed(header[HEADER_KEY], "the header")
        scales = {}
        for component in components:
            own = {
                name.removeprefix(f"{component}."): value
                for name, value in fields.items()
                if name.startswith(f"{component}.")
            }
            if own:
                scales[component] = _scales(own)
        if left := [name for name in fields if name.split(".")[0] not in components]:
            raise ValueError(f"its header speaks of {min(left)}, which the pipeline does not have")
        return scales
    config = file.with_name(CONFIG_FILE)
    if file.name == PEFT_FILE:
        if not config.is_file():
            raise ValueError(f"{CONFIG_FILE}, which says its scale, is not beside it")
        return {components[0]: _scales(_parsed(config.read_text(encoding="utf-8"), CONFIG_FILE))}
    return {}


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} holds no JSON that can be read") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{where} holds no JSON object")
    return fields


def _scales(fields: Mapping[str, Any]) -> Scales:
    for name, value in fields.items():
        if name in _READ or name in _WITHOUT_EFFECT or value in (None, False, [], {}):
            continue
        if value not in _NEUTRAL.get(name, ()):
            raise ValueError(f"its header says {name} {str(value)[:60]!r}, which is not served")
    patterns = [fields.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
    numbers = [fields.get("r", 8), fields.get("lora_alpha", 8)]
    for pattern in patterns:
        if not isinstance(pattern, dict) or not all(map(_PATTERN.fullmatch, pattern)):
            raise ValueError("its header has a pattern of modules that cannot be read")
        numbers += pattern.values()
    if not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        raise ValueError("its header has a rank or alpha that is no number")
    return Scales(
        rank=numbers[0],
        alpha=numbers[1],
        rank_pattern=patterns[0],
        alpha_pattern=patterns[1],
        rslora=bool(fields.get("use_rslora")),
        dora=bool(fields.get("use_dora")),
    )


def _of_pattern(pattern: Mapping[str, float], module: str, usual: float) -> float:
    """As peft looks it up: the first pattern that matches the module's name or its end."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return usual
