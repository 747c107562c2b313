"""TRL 0.23.1's DDPOTrainer as a learner: `python -m peers.trl_learning PIPELINE FOLDER PROMPT SEED INNER SHARE`.

INNER is how often an epoch's images are trained on, SHARE the share of timesteps in each of those passes. Beside these,
rate, clip, batch sizes and images an epoch are those of our own DDPO. The reward is ppod's, called in this process.
"""

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peers.counting import NetworkCount
from peers.worker import serve
from PIL import Image

IMAGES, BATCH, STEPS = 64, 16, 20


def prepare(
    pipeline: str, folder: Path, prompt: str, seed: int, inner: int, share: float
) -> Mapping[str, Callable[[], object]]:
    """Return the tasks: an epoch, and writing the policy with the count of the network's evaluations."""
    PartialState(cpu=True)  # TRL's pipeline class logs through accelerate before the trainer starts it
    warnings.filterwarnings("ignore")
    from trl import DDPOConfig, DDPOTrainer, DefaultDDPOStableDiffusionPipeline

    from ppod_data.rewards import load_reward

    count = NetworkCount()
    config = DDPOConfig(
        seed=seed,
        sample_num_steps=STEPS,
        sample_guidance_scale=1.0,
        train_cfg=False,
        sample_batch_size=IMAGES,
        sample_num_batches_per_epoch=1,
        train_batch_size=BATCH,
        train_num_inner_epochs=inner,
        train_timestep_fraction=share,
        train_learning_rate=3e-3,
        train_clip_range=0.01,
        mixed_precision="no",
        save_freq=10**9,
        project_kwargs={"project_dir": str(folder)},
        accelerator_kwargs={"cpu": True},
    )
    reward = load_reward("scenes")

    def score(images: torch.Tensor, prompts: Any, _: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        pixels = (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        return torch.tensor(reward.score(list(prompts), [Image.fromarray(each) for each in pixels])), {}

    sd_pipeline = DefaultDDPOStableDiffusionPipeline(pipeline, use_lora=True)
    # TRL hands the network two embeddings an image whatever the guidance is; at 1 it then fails.
    sd_pipeline.sd_pipeline._encode_prompt = lambda *_, prompt_embeds, **__: prompt_embeds
    trainer = DDPOTrainer(config, score, lambda: (prompt, {}), sd_pipeline)
    trainer.sd_pipeline.set_progress_bar_config(disable=True)
    done = {"epochs": 0, "updates": 0}

    def epoch() -> None:
        done["updates"] = trainer.step(done["epochs"], done["updates"])
        done["epochs"] += 1

    def save() -> None:
        sd_pipeline.save_checkpoint([sd_pipeline.unet], [None], str(folder / "policy"))
        record = {"evaluations": count.total, **done, "queries": done["epochs"] * IMAGES}
        (folder / "policy" / "count.json").write_text(json.dumps(record))

    return {"epoch": epoch, "save": save}


if __name__ == "__main__":
    torch.set_num_threads(1)
    pipeline, folder, prompt, seed, inner, share = sys.argv[1:]
    serve(lambda: prepare(pipeline, Path(folder), prompt, int(seed), int(inner), float(share)))
