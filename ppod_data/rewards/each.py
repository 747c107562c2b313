"""Call a reward model: the only place where its code gets images, and where its result is read.

It gets copies, so that what it does to an image or to a list changes nothing for another reward, for a retry or for
the caller. One image cannot spoil the others, and a reward that is wrong for every image is refused at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppod_data.errors import PpodError, RewardError, RewardUnavailableError
from ppod_data.rewards.numbers import as_numbers
from ppod_data.support.runtime import is_out_of_memory

if TYPE_CHECKING:
    from PIL.Image import Image

    from ppod_data.rewards import FactChecker, RewardModel

_REASON_LENGTH = 200
_FEWEST = 8
"""Images that must all fail before a reward is refused: a batch of one says nothing about the reward."""


@dataclass
class Trial:
    """What one reward model has shown so far: whether it is right for any image at all."""

    proven: bool = False
    """It scored an image, now or before."""
    num_broken: int = 0
    """Images for which it raised or gave no finite number, as long as it is not proven."""
    first_failure: str | None = None

    def add(self, name: str, results: "Sequence[float | _Failure]") -> None:
        """Count the results of a batch. Raises RewardError where the first images all failed."""
        failures = [result for result in results if isinstance(result, _Failure)]
        self.first_failure = self.first_failure or next((failure.reason for failure in failures), None)
        self.proven = self.proven or len(failures) < len(results)
        if not self.proven:
            self.num_broken += sum(not failure.is_declined for failure in failures)
            if self.num_broken >= _FEWEST:
                raise RewardError(self.problem(name, "the first "))

    def problem(self, name: str, which: str = "") -> str:
        """What is wrong with a reward that failed for images and scored none; empty for any other."""
        if not self.num_broken or self.proven:
            return ""
        return (
            f"{name} could score none of {which}{self.num_broken} images ({self.first_failure}): correct the reward, "
            "which is called with (prompts, images) and returns one number for each image, or None for an image that "
            "it cannot score"
        )


@dataclass(frozen=True)
class _Failure:
    reason: str
    is_declined: bool
    """The reward says on purpose that it has no score for the image or its prompt."""


def score_each(
    reward: "RewardModel", prompts: Sequence[str], images: "Sequence[Image]", trial: Trial | None = None
) -> list[float | str]:
    """A finite score for each image, or why it has none; where the batch raises, its images are tried one by one.

    Args:
        trial: what the reward has shown so far, which grows; None for a call that stands alone.

    Raises:
        RewardError: the result is not one number for each image, or the reward scored none of its first images.
        RewardUnavailableError, or what means that memory ran out: it is not about these images.
    """
    if not images:
        return []
    results = _attempt(reward, prompts, images)
    if trial is not None:
        trial.add(reward.name, results)
    return [result.reason if isinstance(result, _Failure) else result for result in results]


def correct_each(checker: "FactChecker", prompts: Sequence[str], images: "Sequence[Image]") -> list[bool]:
    """Whether each image shows what its prompt asks for. Raises RewardError for another number of answers."""
    answers = checker.correct(list(prompts), [image.copy() for image in images])
    if len(answers) != len(images):
        raise RewardError(
            f"the fact checker answered {len(answers)} times for {len(images)} images: it must answer once an image"
        )
    return [bool(answer) for answer in answers]


def numbers_of(
    reward: "RewardModel", prompts: Sequence[str], images: "Sequence[Image]"
) -> list[float | None]:
    """Call a reward model once, with copies: one number for each image, None where it declines.

    Raises what the reward raises, and RewardError where its result is anything else.
    """
    values = reward.score(list(prompts), [image.copy() for image in images])
    return as_numbers(reward.name, values, len(images))


def _attempt(
    reward: "RewardModel", prompts: Sequence[str], images: "Sequence[Image]"
) -> "list[float | _Failure]":
    try:
        numbers = numbers_of(reward, prompts, images)
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, RewardUnavailableError | RewardError):
            raise
        if len(images) > 1:
            return [_attempt(reward, [prompts[i]], [images[i]])[0] for i in range(len(images))]
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_LENGTH]
        return [_Failure(reason, is_declined=isinstance(error, PpodError))]
    return [_finite(number) for number in numbers]


def _finite(number: float | None) -> "float | _Failure":
    if number is None:
        return _Failure("the reward gives it no score", is_declined=True)
    if not math.isfinite(number):
        return _Failure(f"the score is {number}", is_declined=False)
    return number
