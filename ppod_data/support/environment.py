"""The software and hardware that made a shard, stored outside the bytes that are compared."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ppod_data.support.precision import ATTENTION_BACKEND, tf32

_PACKAGES = (
    "ppod",
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "numpy",
    "pyarrow",
    "pillow",
    "safetensors",
)


def environment() -> dict[str, str]:
    """Return the operating system, CPU, GPU, and versions of Python and the packages that can change a result."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    versions = {name: _version(name) for name in _PACKAGES}
    return (
        {"python": platform.python_version()}
        | versions
        | {
            "system": platform.platform(),
            "cpu": _cpu_model(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "gpu": gpu,
            "tf32": tf32(),
            "attention_backend": os.environ.get(ATTENTION_BACKEND, "native"),
        }
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    """Return the processor's name from /proc/cpuinfo, or else from the platform module."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
