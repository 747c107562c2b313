"""ppod as a worker of bench_peers: `python -m peers.ppod_worker PIPELINE FOLDER BATCH STEPS`."""

import copy
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peers.two_networks import PairedChains, two_network_step
from peers.worker import serve
from peers.workload import CHAIN_FILE, D3PO_CLIP, GUIDANCE, LEARNING_RATE, RANK
from safetensors.torch import save_file
from small_group import make_group, make_state

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel, decode_pixels, load_model
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.generation.sampling import build_policy, sample_batch
from ppod_train.data.batches import load_batch
from ppod_train.objectives import OBJECTIVES
from ppod_train.policy.policy import save_policy
from ppod_train.step.train_step import TrainState, train_step

Task = Callable[[], object]


def prepare(pipeline: str, folder: Path, batch: int, steps: int) -> Mapping[str, Task]:
    """Return the tasks of ppod on a small data set."""
    data = folder / "data"
    make_group(data, batch, steps, model=pipeline, guidance_scale=GUIDANCE, batch_size=batch)
    common = {"model": pipeline, "lora_rank": RANK, "batch_size": batch}
    state = make_state(data, objective="ddpo", **common)
    d3po = make_state(data, objective="d3po", log_ratio_clip=D3PO_CLIP, **common)
    save_chain(state, folder / CHAIN_FILE)
    policy = folder / "policy"
    save_policy(state.model, policy)
    return {
        **sampling(data, pipeline, policy, folder),
        **bounded_steps(data, common),
        **cached_and_asked(pipeline, d3po),
    }


def save_chain(state: TrainState, file: Path) -> None:
    """Latents [T + 1, B, C, H, W] and log-probabilities [T, B] of all chains."""
    batch = load_batch(state.data, state.data.units, state.data.steps, state.policy.prompts)
    save_file({"latents": batch.latents, "log_probs": batch.reference_log_probs.T.contiguous()}, file)


def sampling(data: Path, pipeline: str, policy: Path, folder: Path) -> Mapping[str, Task]:
    """One batch by the policy and by the pipeline itself, as a data set; by the policy also in memory, as TRL."""
    recorded = Dataset.open(data).spec
    options = {
        "prompts": recorded.prompts,
        "num_images_per_prompt": recorded.num_images_per_prompt,
        "num_inference_steps": recorded.num_inference_steps,
        "guidance_scale": recorded.guidance_scale,
        "batch_size": recorded.batch_size,
    }
    with_lora, without = load_model(pipeline, adapter=str(policy)), load_model(pipeline)
    spec, base_spec = build_spec(with_lora, **options), build_spec(without, **options)

    def to_disk(spec: GenerationSpec, model: DiffusionModel, name: str) -> Task:
        def run() -> None:
            shutil.rmtree(folder / name, ignore_errors=True)
            generate(folder / name, spec, model, shards=[0])

        return run

    def in_memory() -> object:
        policy = build_policy(spec, with_lora)
        chain = sample_batch(spec, policy, range(spec.num_samples), record=True)
        return chain, list(decode_pixels(with_lora, chain.latents[-1]))

    return {
        "sample by the policy, to disk": to_disk(spec, with_lora, "sampled"),
        "sample by the policy, in memory": in_memory,
        "sample by the pipeline, to disk": to_disk(base_spec, without, "sampled-base"),
    }


def bounded_steps(data: Path, common: Mapping[str, Any]) -> Mapping[str, Task]:
    """Return the evaluations of all trajectories by every objective, which may keep the graphs of two calls."""

    def repeated(state: TrainState, times: int) -> None:
        for _ in range(times):
            train_step(state, step=0, gradient_share=1.0)

    tasks = {}
    for name in OBJECTIVES:
        state = make_state(data, objective=name, max_graph_gib=1.0, **common)
        bounded = replace(state, graph_bytes=2**30 // (2 * state.batch_size))
        # sft-best has half of the trajectories
        times = 1 if state.data.on_pairs else len(state.data.prompt_index) // len(state.data.units)
        tasks[f"{name}, bounded"] = partial(repeated, bounded, times)
    return tasks


def training(state: TrainState, gradient: str) -> Task:
    """Return a training step with a way to compute the gradient."""
    chosen = replace(state, settings=replace(state.settings, gradient=gradient))
    return lambda: train_step(chosen, step=0, gradient_share=1.0)


def cached_and_asked(pipeline: str, state: TrainState) -> Mapping[str, Task]:
    """Return a D3PO step by ppod, and by the loop with two networks on the same pairs from the same weights."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    policy = copy.deepcopy(state.model.pipeline.unet)
    reference = UNet2DConditionModel.from_pretrained(pipeline, subfolder="unet").eval().requires_grad_(False)
    scheduler = DDIMScheduler.from_pretrained(pipeline, subfolder="scheduler")
    scheduler.set_timesteps(state.data.spec.num_inference_steps)
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    batch = load_batch(state.data, state.data.units, state.data.steps, state.policy.prompts)
    order = torch.cat([batch.targets.chosen, batch.targets.rejected])
    negative = state.policy.prompts.negative
    assert negative is not None
    chains = PairedChains(
        latents=batch.latents[:, order].contiguous(),
        prompt_embeds=torch.cat(
            [
                negative["prompt_embeds"].expand(len(order), -1, -1),
                batch.prompt["prompt_embeds"][order],
            ]
        ),
    )

    def asked() -> None:
        two_network_step(
            policy,
            reference,
            scheduler,
            optimizer,
            chains,
            guidance_scale=GUIDANCE,
            beta=state.settings.dpo_beta,
            clip=state.settings.log_ratio_clip,
            max_grad_norm=state.settings.max_grad_norm,
        )

    cached, passes_twice = training(state, "one-pass"), training(state, "two-pass")
    cached()
    asked()
    for ours, theirs in zip(state.parameters.values(), parameters, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)
    return {"d3po, one pass": cached, "d3po, two passes": passes_twice, "d3po, two networks": asked}


if __name__ == "__main__":
    torch.set_num_threads(1)
    pipeline, folder, batch, steps = sys.argv[1:]
    serve(lambda: prepare(pipeline, Path(folder), int(batch), int(steps)))
