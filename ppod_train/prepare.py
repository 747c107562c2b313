"""From a model, data and settings to what an optimizer step works on, with the log-probabilities checked."""

from dataclasses import replace
from pathlib import Path

import torch

from ppod_data.diffusion.model import DiffusionModel
from ppod_data.generate import prepare_sampler
from ppod_train.data import DataSource, open_training_data
from ppod_train.drift import Drift, check_drift, check_rounding, measure_drift, measure_rounding
from ppod_train.model_defaults import check_subset, explain, resolve
from ppod_train.objectives import OBJECTIVES
from ppod_train.optimize import Trainee, graph_bytes_per_evaluation
from ppod_train.policy import reference_network, start_from, trainable_parameters
from ppod_train.settings import TrainSettings
from ppod_train.sharding import check_can_shard, shard
from ppod_train.step_weight import step_weights
from ppod_train.workers import Workers


def prepare(
    source: DataSource,
    model: DiffusionModel,
    settings: TrainSettings,
    scorer: str,
    start: Path | None,
    workers: Workers,
) -> tuple[Trainee, Drift]:
    """Everything that a step works on, and the drift of the reference; where training starts from the policy that made
    the data, that policy's drift is checked as well."""
    if workers.sharded:
        check_can_shard(settings)
    objective = OBJECTIVES[settings.objective]
    data = open_training_data(
        source,
        objective,
        policy_fingerprint=model.fingerprint,
        temperature=settings.reward_temperature,
        best_of=settings.best_of,
    )
    defaults, settings = explain(settings, data.spec), resolve(settings, data.spec)
    check_subset(settings, len(data.steps))
    sampler = prepare_sampler(replace(data.spec, prompts=data.prompts), model)
    batch_size = settings.batch_size or data.spec.batch_size
    weights = step_weights(data.spec, data.steps, settings.step_weight or "none")
    needs_reference = bool(settings.kl_weight) or objective.on_final_latents
    reference = reference_network(model, lora_rank=settings.lora_rank) if needs_reference else None
    parameters = trainable_parameters(
        model,
        lora_rank=settings.lora_rank,
        seed=settings.seed,
        start=start,
        gradient_checkpointing=settings.gradient_checkpointing,
    )

    def checked_drift(recorded: bool) -> Drift:
        drift = measure_drift(
            data,
            sampler,
            num_trajectories=settings.drift_samples,
            batch_size=batch_size,
            recorded=recorded,
            workers=workers,
        )
        # Without a band, a recorded number is only a constant of the loss.
        if "log_ratio_clip" in objective.reads:
            check_drift(drift, settings.clip, weights)
        return drift

    drift = checked_drift(recorded=False)  # a new LoRA's second factor is 0: still the reference
    start_fingerprint = model.fingerprint
    if start is not None:
        start_fingerprint = start_from(model, start)
        if {dataset.spec.policy_fingerprint for dataset in data.datasets} == {start_fingerprint}:
            checked_drift(recorded=True)
    if "log_ratio_clip" in objective.reads and model.compute_dtype != "fp32":
        rounding = measure_rounding(data, sampler, parameters, batch_size=batch_size, workers=workers)
        drift = replace(drift, rounding=rounding)
        check_rounding(drift, settings.clip, weights, model.compute_dtype)
    graph_bytes = graph_bytes_per_evaluation(sampler, data)
    if workers.sharded:
        parameters = shard(model.denoiser, workers.device)
    trainee = Trainee(
        data=data,
        sampler=sampler,
        reference=reference,
        parameters=parameters,
        average={name: value.detach().clone() for name, value in parameters.items()}
        if settings.ema_decay
        else {},
        optimizer=torch.optim.AdamW(
            parameters.values(), lr=settings.learning_rate or 0.0, weight_decay=settings.weight_decay
        ),
        settings=settings,
        step_weights=weights,
        batch_size=batch_size,
        graph_bytes=graph_bytes,
        scorer=scorer,
        start_fingerprint=start_fingerprint,
        defaults=defaults,
        workers=workers,
    )
    return trainee, drift
