"""Preparation of a run: build the train state from model, data and settings, and check the log-probabilities."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ppod_data.diffusion.models.model import DiffusionModel, resized
from ppod_data.diffusion.policy import Policy
from ppod_data.errors import ConfigError
from ppod_data.generation.sampling import build_policy
from ppod_train.data.training_data import DataSource, open_training_data
from ppod_train.distributed import Workers
from ppod_train.objectives import OBJECTIVES
from ppod_train.policy.compiled import compiled_blocks
from ppod_train.policy.frozen import frozen_network
from ppod_train.policy.fsdp import check_can_shard, shard
from ppod_train.policy.policy import reference_network, start_from, trainable_parameters
from ppod_train.run.model_defaults import check_subset, explain, limit_graph, resolve
from ppod_train.settings import TrainSettings, step_range
from ppod_train.step.drift import Drift, check_drift, check_rounding, measure_drift, measure_rounding
from ppod_train.step.learning_rate import learning_rate
from ppod_train.step.step_weight import step_weights
from ppod_train.step.train_step import TrainState, graph_bytes_per_evaluation


@dataclass(frozen=True, kw_only=True)
class TrainingPart:
    """A run as a part of a longer training, such as a stage of an online run."""

    previous: Path | None
    """The run before, whose optimizer state is continued; None for the first part."""
    first_step: int
    """Optimizer steps of the parts before."""
    num_steps: int
    """Optimizer steps of all parts, over which the learning rate falls."""


def prepare(
    source: DataSource,
    model: DiffusionModel,
    settings: TrainSettings,
    scorer: str,
    start: Path | None,
    workers: Workers,
    part: TrainingPart | None = None,
) -> tuple[TrainState, Drift]:
    """Build the train state and measure the drift of the reference.

    The drift of the policy that made the data is also checked if training starts from that policy or the clip is
    around that policy.
    """
    if workers.sharded:
        check_can_shard(settings)
    objective = OBJECTIVES[settings.objective]
    data = open_training_data(
        source,
        objective,
        policy_fingerprint=model.fingerprint,
        temperature=settings.reward_temperature,
        best_of=settings.best_of,
        trained_steps=step_range(settings.trained_steps),
    )
    defaults, settings = explain(settings, data.spec), resolve(settings, data.spec)
    settings = limit_graph(settings, model.device)
    check_subset(settings, len(data.steps))
    model = resized(model, data.spec.height, data.spec.width)
    policy = build_policy(replace(data.spec, prompts=data.prompts), model)
    batch_size = settings.batch_size or data.spec.batch_size
    weights = step_weights(data.spec, data.steps, settings.step_weight or "none")
    reference = None
    if settings.kl_weight or objective.on_final_latents:
        reference = policy.with_network(reference_network(model, lora_rank=settings.rank))
    parameters = trainable_parameters(
        model,
        lora_rank=settings.rank,
        seed=settings.seed,
        start=start,
        gradient_checkpointing=settings.gradient_checkpointing,
    )
    graph_bytes = graph_bytes_per_evaluation(policy, data, model.denoiser)

    clips_chain = "log_ratio_clip" in objective.reads and not objective.on_final_latents

    def checked_drift(maker: str | None) -> Drift:
        drift = measure_drift(
            data,
            policy,
            num_trajectories=settings.drift_samples,
            batch_size=batch_size,
            maker=maker,
            workers=workers,
        )
        # Without a clip band, recorded log-probabilities are only a constant of the loss.
        if clips_chain:
            check_drift(drift, settings.clip, weights)
        return drift

    # A new LoRA's second factor is 0, so the network is still the reference.
    with compiled_blocks(model.denoiser, on=settings.torch_compile):
        drift = checked_drift(maker=None)
    makers = {
        dataset.spec.policy_fingerprint: dataset.spec.adapter if settings.rank else dataset.spec.model
        for dataset in data.datasets
        if len(data.units_of(data.made_by(dataset.spec.policy_fingerprint)))
    }
    start_fingerprint = model.fingerprint
    if start is not None:
        start_fingerprint = start_from(model, start)
        if start_fingerprint in makers:
            checked_drift(maker=start_fingerprint)
    reference, made_data = _fixed_policies(
        settings, model, parameters, reference, makers=makers, start=start_fingerprint
    )
    others = {
        name: adapter
        for name, adapter in makers.items()
        if name not in (model.fingerprint, start_fingerprint)
    }
    if objective.clips_at_stage or settings.clip_anchor == "stage":
        for maker, folder in others.items():
            with _as_maker(maker, folder, model, parameters) as available:
                if available:
                    checked_drift(maker=maker)
            drift = replace(drift, unchecked=drift.unchecked or not available)
    if clips_chain and model.compute_dtype != "fp32":
        rounding = measure_rounding(data, policy, parameters, batch_size=batch_size, workers=workers)
        drift = replace(drift, rounding=rounding)
        even = step_weights(data.spec, data.steps, "k2")
        check_rounding(drift, settings.clip, weights, model.compute_dtype, even_weights=even)
    part = part or TrainingPart(previous=None, first_step=0, num_steps=settings.num_train_steps)
    if workers.sharded:
        parameters = shard(model.denoiser, workers.device)
    state = TrainState(
        data=data,
        model=model,
        policy=policy,
        reference=reference,
        maker=made_data,
        parameters=parameters,
        average={name: value.detach().clone() for name, value in parameters.items()}
        if settings.ema_decay
        else {},
        optimizer=torch.optim.AdamW(
            parameters.values(), lr=settings.learning_rate or 0.0, weight_decay=settings.weight_decay
        ),
        learning_rate=learning_rate(settings, first_step=part.first_step, num_steps=part.num_steps),
        settings=settings,
        step_weights=weights,
        batch_size=batch_size,
        graph_bytes=graph_bytes,
        scorer=scorer,
        start_fingerprint=start_fingerprint,
        defaults=defaults,
        workers=workers,
    )
    return state, drift


def _fixed_policies(
    settings: TrainSettings,
    model: DiffusionModel,
    parameters: Mapping[str, torch.nn.Parameter],
    reference: Policy | None,
    *,
    makers: Mapping[str, str | None],
    start: str,
) -> tuple[Policy | None, Policy | None]:
    """Return the reference and the policy that made the data; None for one that training does not need.

    The policy that made the data is the reference, or the policy that training starts from, kept as it is now.

    Args:
        makers: folder or LoRA file of each policy that made data, by its fingerprint.
        start: fingerprint of the policy that training starts from.

    Raises:
        ConfigError: another policy made some data, or two policies did.
    """
    if reference is None or OBJECTIVES[settings.objective].compares_with == "reference":
        return reference, None
    others = [
        folder or name[:16] for name, folder in makers.items() if name not in (model.fingerprint, start)
    ]
    problem = f"objective {settings.objective} compares with the policy that made the data"
    if others:
        raise ConfigError(f"{problem}, and {others[0]} made some: start from it (--start)")
    if len(makers) > 1:
        raise ConfigError(f"{problem}, and two policies made these: train on the data of one")
    maker = reference
    if model.fingerprint not in makers:
        maker = reference.with_network(frozen_network(model, parameters, lora_rank=settings.rank))
    return (reference if settings.kl_weight else None), maker


@contextmanager
def _as_maker(
    maker: str, folder: str | None, model: DiffusionModel, parameters: Mapping[str, torch.nn.Parameter]
) -> Iterator[bool]:
    """Load the weights of a policy that made data into the network inside the block, if they are available.

    Args:
        maker: fingerprint of the policy.
        folder: its LoRA, a folder or a file, or its whole pipeline, as the data set names it.

    Yields:
        True if they are available: a LoRA of the trained rank, or all weights.
    """
    if folder is None or not Path(folder).exists():
        yield False
        return
    before = {name: value.detach().clone() for name, value in parameters.items()}
    try:
        fingerprint = start_from(model, Path(folder))
    except ConfigError:
        fingerprint = ""
    try:
        yield fingerprint == maker
    finally:
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(before[name])
