"""Score a batch so that one image cannot spoil the others."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppod_data.errors import PpodError, RewardUnavailableError
from ppod_data.memory import is_out_of_memory

if TYPE_CHECKING:
    from PIL.Image import Image

    from ppod_data.rewards import RewardModel

_REASON_LENGTH = 200


def score_each(reward: "RewardModel", prompts: Sequence[str], images: "Sequence[Image]") -> list[float | str]:
    """A finite score for each image, or why it has none; where the batch raises, its images are tried one by one.

    Raises:
        PpodError: the reward gives another number of scores than images.
        RewardUnavailableError, or what means that memory ran out: it is not about these images.
    """
    if not images:
        return []
    try:
        values = reward.score(prompts, images)
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, RewardUnavailableError):
            raise
        if len(images) > 1:
            return [score_each(reward, [prompts[i]], [images[i]])[0] for i in range(len(images))]
        return [" ".join(f"{type(error).__name__}: {error}".split())[:_REASON_LENGTH]]
    if len(values) != len(images):
        raise PpodError(
            f"{reward.name} gave {len(values)} scores for {len(images)} images: it must give one an image"
        )
    return [float(value) if math.isfinite(value) else f"the score is {value}" for value in values]
