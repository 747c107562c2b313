"""Processes, shards and clusters that options name."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppod_data.errors import ConfigError
from ppod_data.support.processes import rank_and_world_size

if TYPE_CHECKING:
    from ppod_data.cluster.ray_engine import RayCluster


def is_main() -> bool:
    """Return True in the process that speaks for all that torchrun started."""
    return rank_and_world_size()[0] == 0


def parse_shards(text: str | None) -> tuple[int, int] | None:
    """Return (A, B) of `A:B`, None without a range. Raises ConfigError for other text."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f"--shards {text}: write A:B with A below B, for example 0:4 for the first four")
    return int(match[1]), int(match[2])


def ray_cluster(engine: str, address: str | None, device: str, world_size: int) -> "RayCluster | None":
    """Return the cluster of `--engine ray`, None for this process. Raises ConfigError for options that contradict."""
    if engine != "ray":
        if address is not None:
            raise ConfigError(f"--ray-address {address} means nothing without --engine ray: add it")
        return None
    if world_size > 1:
        raise ConfigError(
            "--engine ray shares the work itself: start it without torchrun, or unset WORLD_SIZE"
        )
    from ppod_data.cluster.ray_engine import RayCluster

    return RayCluster(address=address or "auto", device=device)


def usual_reward(model: str) -> str:
    """Return the reward to suggest for images of a model: `scenes` reads the prompts of its own model alone."""
    return "scenes" if model == "scenes" else "image-reward"


def say_deterministic(steps: Sequence[int]) -> list[str]:
    """Return a line on steps without noise; none if every step has noise."""
    if not steps:
        return []
    named = ", ".join(map(str, steps))
    return [f"steps without noise, which have no log-probability and are left out of the loss: {named}"]
