"""Calls of reward models: the only place that passes them images and reads their results.

Reward models get copies, so that their changes to an image or list do not affect other rewards, retries or the
caller. One bad image does not affect the others, and a reward that fails for every image is rejected at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ppod_data.errors import PpodError, RewardError, RewardUnavailableError
from ppod_data.rewards.numbers import NoScore, as_numbers
from ppod_data.support.runtime import is_out_of_memory

if TYPE_CHECKING:
    from PIL.Image import Image

    from ppod_data.rewards import FactChecker, RewardModel

_REASON_LENGTH = 200
_FEWEST = 8
"""Images that must all fail before a reward is rejected. One image would prove too little."""


@dataclass
class Trial:
    """The record of one reward model: whether it works for any image at all."""

    proven: bool = False
    """The reward has scored an image."""
    num_broken: int = 0
    """Images for which it raised or returned no finite number, until it is proven."""
    first_failure: str | None = None

    def add(self, name: str, results: Sequence[float | NoScore]) -> None:
        """Count the results of a batch. Raises RewardError if the first images all failed."""
        failures = [result for result in results if isinstance(result, NoScore)]
        self.first_failure = self.first_failure or next((failure.reason for failure in failures), None)
        self.proven = self.proven or len(failures) < len(results)
        if not self.proven:
            self.num_broken += sum(not failure.is_declined for failure in failures)
            if self.num_broken >= _FEWEST:
                raise RewardError(self.problem(name, "the first "))

    def problem(self, name: str, which: str = "") -> str:
        """Describe the problem of a reward that failed for images and scored none; empty for other rewards."""
        if not self.num_broken or self.proven:
            return ""
        return (
            f"{name} could score none of {which}{self.num_broken} images ({self.first_failure}): correct the "
            "question or the server of a judge, or the function, which is called with (prompts, images) and returns "
            "one number for each image, or None for an image that it cannot score"
        )


def score_each(
    reward: "RewardModel", prompts: Sequence[str], images: "Sequence[Image]", trial: Trial | None = None
) -> list[float | str]:
    """Return a finite score for each image, or the reason for its absence. A failed batch is retried image by image.

    Args:
        reward: the reward model.
        prompts: one a image.
        images: RGB images.
        trial: the record of the reward, updated; None for a single call.

    Raises:
        RewardError: the result is not one number for each image, or the reward scored none of its first images.
        RewardUnavailableError: the reward cannot be reached. Out-of-memory errors are raised too.
    """
    if not images:
        return []
    results = _attempt(reward, prompts, images)
    if trial is not None:
        trial.add(reward.name, results)
    return [result.reason if isinstance(result, NoScore) else result for result in results]


def correct_each(checker: "FactChecker", prompts: Sequence[str], images: "Sequence[Image]") -> list[bool]:
    """Return true for each image that shows its prompt. Raises RewardError for another number of answers."""
    answers = checker.correct(list(prompts), [image.copy() for image in images])
    if len(answers) != len(images):
        raise RewardError(
            f"the fact checker answered {len(answers)} times for {len(images)} images: it must answer once an image"
        )
    return [bool(answer) for answer in answers]


def numbers_of(
    reward: "RewardModel", prompts: Sequence[str], images: "Sequence[Image]"
) -> list[float | NoScore | None]:
    """Call a reward model once, with copies. Return one number for each image, or None or the reason without one.

    Raises what the reward raises, and RewardError for an invalid result.
    """
    values = reward.score(list(prompts), [image.copy() for image in images])
    return as_numbers(reward.name, values, len(images))


def _attempt(
    reward: "RewardModel", prompts: Sequence[str], images: "Sequence[Image]"
) -> list[float | NoScore]:
    try:
        numbers = numbers_of(reward, prompts, images)
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, RewardUnavailableError | RewardError):
            raise
        if len(images) > 1:
            return [_attempt(reward, [prompts[i]], [images[i]])[0] for i in range(len(images))]
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_LENGTH]
        return [NoScore(reason, is_declined=isinstance(error, PpodError))]
    return [_finite(number) for number in numbers]


def _finite(number: float | NoScore | None) -> float | NoScore:
    if isinstance(number, NoScore):
        return replace(number, reason=number.reason[:_REASON_LENGTH])
    if number is None:
        return NoScore("the reward gives it no score", is_declined=True)
    if not math.isfinite(number):
        return NoScore(f"the score is {number}", is_declined=False)
    return number
