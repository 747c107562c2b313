"""Claim: a training step costs the network evaluations that it needs, and nothing beside.

f and b are the bare forward and backward of the network on the unique (trajectory, timestep) evaluations of a step, in
the same chunks. Reading and checking the trajectories, log-probabilities, loss, optimizer and metrics included:
(1) the exact two-pass step with nothing clipped takes at most 1.05·(2f + b); (2) with a share s of the evaluations in
the band, at most 1.05·(f + s·(f + b)); (3) the one-pass step at most 1.05·(f + b); (4) all 496 pairs of a group of 32
take at most 1.05 times its 16 disjoint pairs, best with worst and so on. LoRA of rank 8 on the embedded model, 20
steps, one thread. Clock: processor time; wall time is shown beside it.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from side_by_side import Report, is_quick, measure, ratios

from ppod_data.dataset import Dataset
from ppod_data.diffusion.model import load_model
from ppod_data.generate import build_spec, generate, prepare_sampler
from ppod_data.tables import PAIRS, write_table
from ppod_train.batches import PreferenceData, load_batch, open_preferences
from ppod_train.gradient import all_log_probs
from ppod_train.log_probs import batch_log_probs
from ppod_train.optimize import Trainee, train_step
from ppod_train.policy import trainable_parameters
from ppod_train.settings import TrainSettings

BATCH = 64


def write_pairs(dataset: Dataset, name: str, pairs: list[tuple[int, int]]) -> None:
    """A pair table of sample numbers (chosen, rejected)."""
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


def make_trainee(root: Path, group: int, steps: int) -> tuple[Trainee, PreferenceData]:
    """A policy a little away from its reference, on a group's disjoint pairs; and the data of all its pairs."""
    model = load_model("scenes")
    spec = build_spec(
        model,
        prompts=["a cat and a dog"],
        num_images_per_prompt=group,
        num_inference_steps=steps,
        batch_size=BATCH,
    )
    generate(root, spec, model, shards=[0])
    dataset = Dataset.open(root)
    write_pairs(dataset, "disjoint", [(i, group - 1 - i) for i in range(group // 2)])
    write_pairs(dataset, "all", list(combinations(range(group), 2)))
    disjoint, every = (
        open_preferences([root], name, policy_fingerprint=model.fingerprint) for name in ("disjoint", "all")
    )
    parameters = trainable_parameters(model, lora_rank=8, seed=0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    trainee = Trainee(
        data=disjoint,
        sampler=prepare_sampler(spec, model),
        parameters=parameters,
        # so small a rate leaves the weights as they are: every round does the same work
        optimizer=torch.optim.AdamW(parameters.values(), lr=1e-30),
        settings=TrainSettings(pairs_per_step=group // 2, log_ratio_clip=float("inf"), gradient="two-pass"),
        batch_size=BATCH,
        graph_bytes=0,
    )
    return trainee, every


def bare_calls(trainee: Trainee, *, backward: bool) -> Callable[[], None]:
    """The network alone on every (trajectory, timestep), timestep by timestep in chunks."""
    data, unet = trainee.data, trainee.sampler.model.pipeline.unet
    batch = load_batch(data, np.arange(len(data.chosen)), data.steps, "cpu")
    latents = batch.latents[batch.current].flatten(0, 1)
    timesteps = trainee.sampler.schedule.timesteps[batch.step_index].repeat_interleave(len(data.rows))
    embeds = trainee.sampler.conditioning.prompt_embeds[batch.prompt_index].repeat(len(data.steps), 1, 1)
    chunks = list(zip(*(torch.split(tensor, BATCH) for tensor in (latents, timesteps, embeds)), strict=True))

    def run() -> None:
        with torch.set_grad_enabled(backward):
            for sample, timestep, embed in chunks:
                output = unet(sample, timestep, encoder_hidden_states=embed, return_dict=False)[0]
                if backward:
                    output.backward(torch.ones_like(output))

    return run


def median_log_ratio(trainee: Trainee) -> float:
    """The clip that leaves about half of the evaluations in the band."""
    data = trainee.data
    batch = load_batch(data, np.arange(len(data.chosen)), data.steps, "cpu")
    with torch.no_grad():
        log_probs = batch_log_probs(data.spec, trainee.sampler, batch)
        policy = all_log_probs(log_probs, batch.reference_log_probs.shape, chunk_size=BATCH)
    return float((policy - batch.reference_log_probs).abs().median())


def main() -> None:
    quick = is_quick(__doc__)
    torch.set_num_threads(1)
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        group = 8 if quick else 32
        trainee, every = make_trainee(Path(folder), group, 2 if quick else 20)

        def step(trainee: Trainee) -> float:
            return train_step(trainee, step=0, in_band_share=1.0).backward_share

        def with_settings(**changes: Any) -> Trainee:
            return replace(trainee, settings=replace(trainee.settings, **changes))

        half = with_settings(log_ratio_clip=median_log_ratio(trainee))
        one_pass = with_settings(gradient="one-pass")
        all_pairs = replace(with_settings(pairs_per_step=len(every.chosen)), data=every)
        share = step(half)
        seconds = measure(
            {
                "f": bare_calls(trainee, backward=False),
                "two": lambda: step(trainee),
                "f+b": bare_calls(trainee, backward=True),
                "one": lambda: step(one_pass),
                "half": lambda: step(half),
                "all": lambda: step(all_pairs),
            },
            rounds=1 if quick else 8,
        )
    for clock, of in seconds.items():

        def sums(weight: float, of: dict[str, list[float]] = of) -> list[float]:
            """f + weight·(f + b), round by round."""
            return [f + weight * both for f, both in zip(of["f"], of["f+b"], strict=True)]

        for claim, numerator, denominator in (
            ("two-pass step, nothing clipped / (2f + b)", of["two"], sums(1)),
            (f"two-pass step, s = {share:.2f} in the band / (f + s(f + b))", of["half"], sums(share)),
            ("one-pass step / (f + b)", of["one"], of["f+b"]),
            ("step on all pairs / on disjoint pairs of the same group", of["all"], of["two"]),
        ):
            bound = 1.05 if clock == "processor" else None
            report.add(f"{claim}, {clock} time", ratios(numerator, denominator), bound=bound)
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
