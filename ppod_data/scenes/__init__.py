"""The embedded world: a small, real latent diffusion pipeline on rendered scenes of emoji animals.

`PIPELINE_PATH` is a folder that `diffusers.StableDiffusionPipeline.from_pretrained` loads. `SCORERS_PATH` holds
the weights of the two scorers (`ppod_data.rewards.scenes` and `ppod_data.rewards.scenes_check`). Importing this
package imports no torch.
"""

from pathlib import Path

SCENES_PATH: Path = Path(__file__).resolve().parent
PIPELINE_PATH: Path = SCENES_PATH / "pipeline"
SCORERS_PATH: Path = SCENES_PATH / "scorers"

__all__ = ["PIPELINE_PATH", "SCENES_PATH", "SCORERS_PATH"]
