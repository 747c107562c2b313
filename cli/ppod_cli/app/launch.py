"""What the commands share: errors as one line, common options, ranks, the summary at the end."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppod_data.errors import ConfigError
from ppod_data.support.processes import rank_and_world_size

if TYPE_CHECKING:
    from ppod_data.cluster.ray_engine import RayCluster
    from ppod_data.format.spec import GenerationSpec


def is_main() -> bool:
    """Return True in the process that speaks for all that torchrun started."""
    return rank_and_world_size()[0] == 0


def parse_shards(text: str | None) -> tuple[int, int] | None:
    """(A, B) of `A:B`. Raises ConfigError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f"--shards {text}: write A:B with A below B, for example 0:4 for the first four")
    return int(match[1]), int(match[2])


def ray_cluster(engine: str, address: str | None, device: str, world_size: int) -> "RayCluster | None":
    """What the options ask for; None for this process. Raises ConfigError where they contradict each other."""
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
    """The reward to suggest for images of a model: its own for scenes, which reads no others."""
    return "scenes" if model == "scenes" else "image-reward"


def noise_notes(spec: "GenerationSpec") -> list[str]:
    """Return a line on noise that stays in the images; none if the sampler removes it."""
    from ppod_data.diffusion.noise_left import noise_left

    found = noise_left(spec)
    if found is None:
        return []
    return [
        f"noise of the steps {spec.window} stays in the images: fine detail varies by {found[0]:.3f}, and by "
        f"{found[1]:.3f} without noise; leave --noisy-steps out to avoid it"
    ]


def say_deterministic(steps: Sequence[int]) -> list[str]:
    """A line on steps that have no noise; none where there are none."""
    if not steps:
        return []
    named = ", ".join(map(str, steps))
    return [f"steps without noise, which have no log-probability and are left out of the loss: {named}"]
