"""Data of the benchmarks of training steps: scored and paired images of one prompt by the embedded model.

The policy is a little away from the reference that made them.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import load_model
from ppod_data.format.tables import PAIRS, write_table
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.generation.sampling import build_policy
from ppod_data.scoring.score import score
from ppod_train.data.batches import load_batch
from ppod_train.data.training_data import DataSource, TrainingData, open_training_data
from ppod_train.objectives import OBJECTIVES
from ppod_train.policy.policy import reference_network, trainable_parameters
from ppod_train.settings import TrainSettings
from ppod_train.step.step_weight import step_weights
from ppod_train.step.train_step import TrainState

BATCH = 64
"""Evaluations in one network call."""


class Brightness:
    """A reward that costs nothing."""

    name, revision = "brightness", "1"

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """Return the mean brightness of each image."""
        return [float(np.asarray(image).mean()) for image in images]


def make_group(
    root: Path,
    group: int,
    steps: int,
    *,
    model: str = "scenes",
    guidance_scale: float = 1.0,
    batch_size: int = BATCH,
    noisy_steps: str | None = None,
) -> None:
    """`group` scored images, with the tables of pairs `disjoint` and `all`."""
    loaded = load_model(model)
    spec = build_spec(
        loaded,
        prompts=["a cat and a dog"],
        num_images_per_prompt=group,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        noisy_steps=noisy_steps,
    )
    generate(root, spec, loaded, shards=[0])
    dataset = Dataset.open(root)
    score(dataset, Brightness(), name="brightness")
    _write_pairs(dataset, "disjoint", [(i, group - 1 - i) for i in range(group // 2)])
    _write_pairs(dataset, "all", list(combinations(range(group), 2)))


def open_group(root: Path, objective: str, pairs: str = "disjoint") -> TrainingData:
    """Open the training data of an objective."""
    return open_training_data(
        DataSource(roots=[root], pairs=pairs, scores="brightness"),
        OBJECTIVES[objective],
        policy_fingerprint=Dataset.open(root).spec.policy_fingerprint,
        best_of=2,
    )


def make_state(
    root: Path,
    *,
    model: str = "scenes",
    lora_rank: int = 8,
    batch_size: int = BATCH,
    objective: str = "ppod",
    **settings: Any,
) -> TrainState:
    """Return a LoRA that has moved a little. A tiny learning rate makes all steps do the same work."""
    loaded = load_model(model)
    reference = reference_network(loaded, lora_rank=lora_rank)
    parameters = trainable_parameters(loaded, lora_rank=lora_rank, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    data = open_group(root, objective)
    policy = build_policy(data.spec, loaded)
    pairs = len(data.chosen) if data.on_pairs else len(data.units) // 2
    return TrainState(
        data=data,
        model=loaded,
        policy=policy,
        reference=policy.with_network(reference),
        maker=policy.with_network(reference),
        parameters=parameters,
        average={},
        optimizer=torch.optim.AdamW(parameters.values()),
        learning_rate=lambda _: 1e-30,
        settings=TrainSettings(objective=objective, pairs_per_step=pairs, **settings),
        batch_size=batch_size,
        graph_bytes=0,
        step_weights=step_weights(data.spec, data.steps, "none"),
        scorer="",
        start_fingerprint=loaded.fingerprint,
    )


def bare_calls(state: TrainState, *, backward: bool, size: int = BATCH) -> Callable[[], None]:
    """Return calls of the network alone on every (trajectory, timestep), by timestep in chunks."""
    data, unet = state.data, state.model.pipeline.unet
    batch = load_batch(data, data.units, data.steps, state.policy.prompts)
    latents = batch.latents[batch.current].flatten(0, 1)
    timesteps = state.policy.schedule.timesteps[batch.step_index].repeat_interleave(len(data.rows))
    embeds = batch.prompt["prompt_embeds"].repeat(len(data.steps), 1, 1)
    chunks = list(zip(*(torch.split(tensor, size) for tensor in (latents, timesteps, embeds)), strict=True))

    def run() -> None:
        with torch.set_grad_enabled(backward):
            for sample, timestep, embed in chunks:
                output = unet(sample, timestep, encoder_hidden_states=embed, return_dict=False)[0]
                if backward:
                    output.backward(torch.ones_like(output))

    return run


def _write_pairs(dataset: Dataset, name: str, pairs: list[tuple[int, int]]) -> None:
    """Write a pair table of sample numbers (chosen, rejected)."""
    rows = dataset.samples(["sample_id", "prompt_id"]).to_pylist()
    table = [
        {
            "pair_id": f"{number:032x}",
            "prompt_id": rows[chosen]["prompt_id"],
            "chosen_id": rows[chosen]["sample_id"],
            "rejected_id": rows[rejected]["sample_id"],
            "label": 1.0,
            "margin": 1.0,
            "source": "benchmark",
            "votes": None,
        }
        for number, (chosen, rejected) in enumerate(pairs)
    ]
    write_table(dataset.root / "pairs" / f"{name}.parquet", pa.Table.from_pylist(table, schema=PAIRS))
