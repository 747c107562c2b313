"""The reward `scenes`: how likely the facts of a prompt are under a small convolutional reader."""

from ppod_data.scenes import SCORERS_PATH
from ppod_data.scenes.readers import ConvReader
from ppod_data.scenes.scoring import SceneScorer


def build(device: str = "cpu") -> SceneScorer:
    """The scorer on `device`; needs nothing to download."""
    return SceneScorer("scenes", ConvReader(), SCORERS_PATH / "scenes.safetensors", device)
