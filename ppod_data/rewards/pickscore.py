"""The reward `pickscore`: a CLIP ViT-H/14 trained on people's choices between images (Kirstain et al., 2023).

Reward = exp(logit_scale) × cos(image, prompt), as in the model card: about 20. Papers that report 0.2 omit the
scale of 100.
"""

from ppod_data.rewards.clip import MODEL_FILES, PROCESSOR_FILES, ClipReward, load_clip
from ppod_data.rewards.weights import find_files, identity

_MODEL = "yuvalkirstain/PickScore_v1"
PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def build(device: str = "cpu", folder: str | None = None) -> ClipReward:
    """Load the published model, or the model, tokenizer and preprocessor_config.json in one `folder`."""
    model = find_files("pickscore", folder, repository=_MODEL, patterns=MODEL_FILES)
    processor = find_files("pickscore", folder, repository=PROCESSOR, patterns=PROCESSOR_FILES)
    clip = load_clip("pickscore", model[0].parent, processor[0].parent, device)
    return ClipReward("pickscore", identity("exp(logit_scale) * cos", model + processor), clip)
