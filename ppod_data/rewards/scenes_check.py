"""The scorer `scenes-check`: another network, trained on other renders; for evaluation only, never a reward.

A policy whose `scenes` reward rises while this score does not exploits the reward.
"""

from ppod_data.scenes import SCORERS_PATH
from ppod_data.scenes.readers import PlainReader
from ppod_data.scenes.scoring import SceneScorer


def build(device: str = "cpu") -> SceneScorer:
    """Load the scorer on `device`. It needs no download."""
    return SceneScorer("scenes-check", PlainReader(), SCORERS_PATH / "scenes-check.safetensors", device)
