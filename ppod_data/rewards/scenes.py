"""The reward `scenes`: the probability of a prompt's facts under a small convolutional reader."""

from ppod_data.scenes import SCORERS_PATH
from ppod_data.scenes.readers import ConvReader
from ppod_data.scenes.scoring import SceneScorer


def build(device: str = "cpu") -> SceneScorer:
    """Load the scorer on `device`. It needs no download."""
    return SceneScorer("scenes", ConvReader(), SCORERS_PATH / "scenes.safetensors", device)
