"""Measurements of a batch of images: rewards, correct images, statistics.

Shapes: K images of a prompt.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ppod_data.rewards import FactChecker, RewardModel
from ppod_data.rewards.each import Trial, correct_each, score_each
from ppod_train.evaluation.image_statistics import measured, no_images
from ppod_train.evaluation.metrics import BoolArray
from ppod_train.evaluation.statistics import FloatArray


def empty_columns(reward: RewardModel, check_reward: RewardModel | None) -> dict[str, npt.NDArray[Any]]:
    """Return the columns without rows, so that a process without a share has the same columns."""
    columns: dict[str, npt.NDArray[Any]] = {"rewards": np.empty(0, np.float64), **no_images()}
    if isinstance(reward, FactChecker):
        columns["correct"] = np.empty(0, np.bool_)
    if check_reward is not None:
        columns["check_rewards"] = np.empty(0, np.float64)
        if isinstance(check_reward, FactChecker):
            columns["check_correct"] = np.empty(0, np.bool_)
    return columns


def measure_batch(
    prompt: str,
    images: list[Image.Image],
    reward: RewardModel,
    check_reward: RewardModel | None,
    trials: tuple[Trial, Trial],
) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a prompt's batch of images; `trials` are the records of both scorers.

    Raises:
        RewardError: a reward that fails on every image.
    """
    rewards = _scores(reward, prompt, images, trials[0])
    columns: dict[str, npt.NDArray[Any]] = {"rewards": rewards, **measured(images)}
    if isinstance(reward, FactChecker):
        columns["correct"] = _correct(reward, prompt, images, rewards)
    if check_reward is not None:
        rewards = _scores(check_reward, prompt, images, trials[1])
        columns["check_rewards"] = rewards
        if isinstance(check_reward, FactChecker):
            columns["check_correct"] = _correct(check_reward, prompt, images, rewards)
    return columns


def _scores(scorer: RewardModel, prompt: str, images: list[Image.Image], trial: Trial) -> FloatArray:
    """Return the scores [K]; NaN for an image without a score."""
    results = score_each(scorer, [prompt] * len(images), images, trial)
    return np.array([math.nan if isinstance(result, str) else result for result in results], dtype=np.float64)


def _correct(scorer: FactChecker, prompt: str, images: list[Image.Image], rewards: FloatArray) -> BoolArray:
    """Return a mask [K] of correct images; False for an image without a score, which is not checked."""
    correct = np.zeros(len(images), np.bool_)
    scored = np.flatnonzero(np.isfinite(rewards))
    correct[scored] = (
        correct_each(scorer, [prompt] * len(scored), [images[row] for row in scored]) if len(scored) else []
    )
    return correct
