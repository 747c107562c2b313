"""The scorer `scenes-check`: another network, trained on other renders; for evaluation only, never a reward.

A policy whose `scenes` reward rises while this one does not is exploiting the reward.
"""

from ppod_data.scenes import SCORERS_PATH
from ppod_data.scenes.readers import PlainReader
from ppod_data.scenes.scoring import SceneScorer


def build(device: str = "cpu") -> SceneScorer:
    """The scorer on `device`; needs nothing to download."""
    return SceneScorer("scenes-check", PlainReader(), SCORERS_PATH / "scenes-check.safetensors", device)
