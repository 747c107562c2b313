"""What the commands share: errors as one line, common options, ranks, the summary at the end."""

import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppod_data.errors import ConfigError

if TYPE_CHECKING:
    from ppod_data.cluster.ray_engine import RayCluster
    from ppod_data.diffusion.models.model import DiffusionModel
    from ppod_data.format.spec import GenerationSpec


def rank_and_world_size() -> tuple[int, int]:
    """RANK and WORLD_SIZE as torchrun and `accelerate launch` set them; (0, 1) without them.

    Says so where `accelerate launch` started one process: on CPUs it does whatever --num_processes is.

    Raises:
        ConfigError: values that are no rank of a world.
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "WORLD_SIZE" not in os.environ:
        print(
            "note: accelerate launch started one process; for more of them on CPUs use torchrun --nproc-per-node N",
            file=sys.stderr,
        )
    rank, world_size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)):
        raise ConfigError(
            f"RANK={rank}, WORLD_SIZE={world_size} are no rank of a world: unset both variables"
        )
    return int(rank), int(world_size)


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


def resolve_device(text: str) -> str:
    """The torch device to use; under torchrun, `auto` and `cuda` mean the GPU of this process's LOCAL_RANK.

    Raises:
        ConfigError: a device that torch does not know or does not see.
    """
    import torch

    local_rank = os.environ.get("LOCAL_RANK", "0")
    if text == "auto":
        if torch.cuda.is_available():
            return f"cuda:{int(local_rank) % torch.cuda.device_count()}"
        return "cpu"
    if text.partition(":")[0] == "mps":
        raise ConfigError(
            f"device {text} has no fp64, which log-probabilities are summed in: give --device cpu"
        )
    if text == "cuda" and "LOCAL_RANK" in os.environ:
        text = f"cuda:{local_rank}"
    try:
        torch.empty(0, device=torch.device(text))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {text} cannot be used here ({reason}): give --device cpu") from error
    return text


def load_policy(
    spec: "GenerationSpec",
    model: str | None,
    revision: str | None,
    variant: str | None,
    adapter: str | None,
    device: str,
    compute_dtype: str,
) -> "DiffusionModel":
    """The policy that made a data set; another model or adapter where the options name one."""
    from ppod_data.diffusion.models.model import load_model

    if model is None:
        model, revision, adapter = spec.model, revision or spec.revision, adapter or spec.adapter
        variant = variant or spec.variant
    return load_model(
        model,
        revision=revision,
        variant=variant,
        adapter=adapter,
        device=device,
        compute_dtype=compute_dtype,
    )


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
