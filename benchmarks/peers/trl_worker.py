"""TRL 0.23.1's DDPOTrainer as a worker of bench_peers: `python -m peers.trl_worker PIPELINE FOLDER BATCH STEPS`.

Its own methods on its own pipeline class. Other than by default: fp32, as ppod's side, instead of fp16; batches as
large as bench_peers says, instead of one image; no progress bar. It has no tracker by default, and neither saves nor
asks for rewards in what is measured; advantages are given. Guidance in sampling and training (`train_cfg`) and LoRA of
rank 4 without autocast are its defaults.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peers.worker import serve
from peers.workload import CHAIN_FILE, GUIDANCE, LEARNING_RATE, PROMPT, SHIFT
from safetensors.torch import load_file


def prepare(pipeline: str, folder: str, batch: int, steps: int) -> Mapping[str, Callable[[], object]]:
    """Return the tasks of TRL's DDPOTrainer."""
    PartialState(cpu=True)  # TRL's pipeline class logs through accelerate before the trainer starts it
    warnings.filterwarnings("ignore")
    from trl import DDPOConfig, DDPOTrainer, DefaultDDPOStableDiffusionPipeline

    config = DDPOConfig(
        sample_num_steps=steps,
        sample_guidance_scale=GUIDANCE,
        sample_batch_size=batch,
        sample_num_batches_per_epoch=1,
        train_batch_size=batch,
        train_learning_rate=LEARNING_RATE,
        mixed_precision="no",
        project_kwargs={"project_dir": folder},
        accelerator_kwargs={"cpu": True},
    )
    sd_pipeline = DefaultDDPOStableDiffusionPipeline(pipeline, use_lora=True)
    trainer = DDPOTrainer(config, lambda *images: 0.0, lambda: (PROMPT, {}), sd_pipeline)
    trainer.sd_pipeline.set_progress_bar_config(disable=True)

    def sample() -> Any:
        return trainer._generate_samples(iterations=1, batch_size=batch)

    batches, _ = sample()
    check_same_policy(trainer, batches[0], Path(folder, CHAIN_FILE))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.trainable_layers:
            parameter.add_(torch.randn_like(parameter), alpha=SHIFT)
    batches, _ = sample()
    batches[0]["advantages"] = torch.linspace(-1.5, 1.5, batch)

    def train() -> None:
        trainer.sd_pipeline.unet.train()
        trainer._train_batched_samples(0, 0, 0, batches)
        assert trainer.accelerator.sync_gradients  # one optimizer step over all evaluations was done

    return {"TRL, sample": sample, "TRL, train": train}


@torch.no_grad()
def check_same_policy(trainer: Any, sampled: Mapping[str, torch.Tensor], file: Path) -> None:
    """Under the untrained policy TRL computes the log-probabilities that ppod recorded with its chains."""
    chain = load_file(file)
    embeds = torch.cat([sampled["negative_prompt_embeds"], sampled["prompt_embeds"]])
    advantages = torch.zeros(len(embeds) // 2)
    for i, log_prob in enumerate(chain["log_probs"]):
        step = (chain["latents"][i], sampled["timesteps"][:, i], chain["latents"][i + 1], log_prob)
        _, approximate_kl, _ = trainer.calculate_loss(*step, advantages, embeds)
        assert approximate_kl < 1e-10, f"step {i}: half the mean square difference is {approximate_kl}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    pipeline, folder, batch, steps = sys.argv[1:]
    serve(lambda: prepare(pipeline, folder, int(batch), int(steps)))
