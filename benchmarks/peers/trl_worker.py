"""TRL 0.23.1's DDPOTrainer as a worker of bench_peers: `python -m peers.trl_worker PIPELINE FOLDER BATCH STEPS`.

Its own methods on its own pipeline class. Other than by default: fp32, since on a CPU half precision is slower and
other work; batches as large as bench_peers says, where its own are of one image; no progress bar. It has no tracker by
default, and neither saves nor asks for rewards in what is measured; advantages are given. Guidance in sampling and
training (`train_cfg`) is its default, and so is LoRA without autocast.
"""

import sys
import warnings
from collections.abc import Callable, Mapping

import torch
from accelerate import PartialState
from peers.worker import serve
from peers.workload import GUIDANCE, LEARNING_RATE, PROMPT, SHIFT


def prepare(pipeline: str, folder: str, batch: int, steps: int) -> Mapping[str, Callable[[], object]]:
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
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.trainable_layers:
            parameter.add_(torch.randn_like(parameter), alpha=SHIFT)

    def sample() -> object:
        return trainer._generate_samples(iterations=1, batch_size=batch)

    batches, _ = sample()
    batches[0]["advantages"] = torch.linspace(-1.5, 1.5, batch)

    def train() -> None:
        trainer.sd_pipeline.unet.train()
        trainer._train_batched_samples(0, 0, 0, batches)
        assert trainer.accelerator.sync_gradients  # one optimizer step over all evaluations was done

    return {"TRL, sample": sample, "TRL, train": train}


if __name__ == "__main__":
    torch.set_num_threads(1)
    pipeline, folder, batch, steps = sys.argv[1:]
    serve(lambda: prepare(pipeline, folder, int(batch), int(steps)))
