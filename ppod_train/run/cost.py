"""Estimate of a training's memory, network calls and disk space from the model's sizes, without computation.

The memory model is described in `ppod_data.generation.cost`.
"""

from dataclasses import dataclass

import torch

from ppod_data.diffusion.models.model import DiffusionModel, calls_per_prediction, resized
from ppod_data.diffusion.schedule import forward_steps, spec_schedule
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.cost import (
    GenerationPlan,
    call_bytes,
    embed_first,
    plan_generation,
    tensor_bytes,
)
from ppod_train.objectives import OBJECTIVES
from ppod_train.policy.policy import trainable_parameters
from ppod_train.run.checkpoint import KEPT
from ppod_train.settings import TrainSettings, step_range
from ppod_train.step.groups import Group, evaluation_groups, group_size
from ppod_train.step.method import backward_rows, gradient_method, graph_size, regions_of

_BACKWARD = 2
"""Cost of a backward pass in network calls."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Estimate of a dry run."""

    generation: GenerationPlan
    """Estimate for the data set of the training."""
    trained_bytes: int
    """Trained weights beyond the pipeline, their gradient, AdamW's two moments and the moving average, in fp32."""
    reference_bytes: int
    """A second network, if the objective needs one and all weights train."""
    update_bytes: int
    """Peak memory of an update: a network call with its backward pass and buffers, or one whole graph."""
    peak_bytes: int
    """Peak memory of training and its evaluations."""
    one_pass: bool
    """True if the first update evaluates every step once."""
    num_train_steps: int
    network_calls_per_step: int
    """Maximum number of evaluations of one latent in an optimizer step; one with a backward pass counts once."""
    backward_calls_per_step: int
    """Number of those evaluations with a backward pass."""
    eval_calls: int
    """Number of evaluations of one latent in all evaluations on validation noise."""
    disk_bytes: int
    """Checkpoints and policy, without the images of evaluations."""

    def seconds(self, data_seconds: float) -> float:
        """Estimate the seconds of training in one process, without the reward's time.

        Args:
            data_seconds: the seconds to generate the data set on this machine
                (`ppod_data.generation.cost.measure_seconds`). A backward pass counts as two network calls.
        """
        update = self.network_calls_per_step + _BACKWARD * self.backward_calls_per_step
        calls = self.num_train_steps * update + self.eval_calls
        return data_seconds / self.generation.network_calls * calls


def plan_training(model: DiffusionModel, spec: GenerationSpec, settings: TrainSettings) -> TrainingPlan:
    """Estimate the training of `model`, a skeleton, on data of a spec; the skeleton becomes trainable in place."""
    model = resized(model, spec.height, spec.width)
    conditioning = embed_first(model, spec)
    generation = plan_generation(model, spec, conditioning)
    network_bytes = tensor_bytes(model.denoiser.parameters())
    with torch.device(model.device):
        parameters = trainable_parameters(
            model,
            lora_rank=settings.rank,
            seed=settings.seed,
            gradient_checkpointing=settings.gradient_checkpointing,
        )
    lora, averaged = bool(settings.rank), bool(settings.ema_decay)
    weights = 4 * sum(parameter.numel() for parameter in parameters.values())
    trained_bytes = weights * (lora + 3 + averaged)
    fixed_calls = bool(settings.kl_weight) + OBJECTIVES[settings.objective].on_final_latents
    reference_bytes = 0 if lora or not fixed_calls else network_bytes
    steps = _num_trained_steps(spec, settings)
    evaluations = 2 * settings.pairs_per_step * min(settings.timesteps_per_update or steps, steps)
    rows = min(settings.batch_size or spec.batch_size, evaluations)
    graph, _ = call_bytes(model, spec, conditioning, 1, with_graph=True, backward=False)
    whole_graph = graph * evaluations
    shape = (2 * settings.pairs_per_step, evaluations // (2 * settings.pairs_per_step))
    groups = _groups_of_disjoint_pairs(settings, shape, rows, graph_size(settings, graph))
    group = group_size(groups)
    sizes = {"group_size": group, "batch_size": rows, "graph_bytes": graph, "trained_bytes": weights}
    method = gradient_method(settings, shape=shape, gradient_share=1.0, **sizes)
    one_pass = method != "two-pass"
    chunk = rows if one_pass else backward_rows(settings, rows, graph)
    graph, update_bytes = call_bytes(model, spec, conditioning, chunk, with_graph=True)
    beyond_a_call = {
        "whole-graph": whole_graph - graph,
        "by-group": (group - chunk) * graph // chunk,
        "by-trajectory": weights * shape[0] * regions_of(settings),
    }
    update_bytes += max(beyond_a_call.get(method, 0), 0)
    if chunk < rows:
        update_bytes = max(update_bytes, call_bytes(model, spec, conditioning, rows, with_graph=False)[1])
    judging = max(generation.sample_bytes, generation.decode_bytes) if settings.eval_every else 0
    halves = calls_per_prediction(model, spec.guidance_scale)
    images = settings.eval_images_per_prompt * len(settings.eval_prompts or spec.prompts)
    num_evals = 1 + -(-settings.num_train_steps // settings.eval_every) if settings.eval_every else 0
    return TrainingPlan(
        generation=generation,
        trained_bytes=trained_bytes,
        reference_bytes=reference_bytes,
        update_bytes=update_bytes,
        peak_bytes=generation.pipeline_bytes + trained_bytes + reference_bytes + max(update_bytes, judging),
        one_pass=one_pass,
        num_train_steps=settings.num_train_steps,
        network_calls_per_step=evaluations * halves * (2 - one_pass + fixed_calls),
        backward_calls_per_step=evaluations * halves,
        eval_calls=num_evals * images * spec.num_inference_steps * halves,
        disk_bytes=KEPT * weights * (3 + averaged) + (weights if lora else generation.pipeline_bytes),
    )


def _groups_of_disjoint_pairs(
    settings: TrainSettings, shape: tuple[int, int], rows: int, kept: int
) -> list[Group]:
    pairs = torch.arange(shape[0]).view(2, -1)
    couples = OBJECTIVES[settings.objective].couples
    return evaluation_groups(couples, torch.empty(shape), pairs, chunk_size=rows, graph_size=kept)


def _num_trained_steps(spec: GenerationSpec, settings: TrainSettings) -> int:
    stochastic = spec_schedule(spec).stochastic
    trained = step_range(settings.trained_steps) or range(spec.num_inference_steps)
    if OBJECTIVES[settings.objective].on_final_latents:
        return len(set(forward_steps(spec)) & set(trained))
    return sum(stochastic[trained.start : trained.stop])
