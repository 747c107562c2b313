"""The steps of a chain that an objective trains on, and those whose recorded log-probabilities a replay checks."""

from ppod_data.diffusion.schedule import forward_steps, spec_schedule
from ppod_data.errors import ConfigError
from ppod_data.format.spec import GenerationSpec
from ppod_train.objectives import Objective


def chain_steps(
    spec: GenerationSpec, objective: Objective, trained_steps: range | None, root: object
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the trained steps and the recorded steps of a data set's chains.

    An objective of the chain trains on recorded steps: stored and stochastic. An objective that reads x_0 alone trains
    on every timestep of the chain, whatever was recorded.

    Args:
        trained_steps: the steps to train on; None for all.
        root: the data set, for messages.

    Raises:
        ConfigError: no stored step is stochastic, or none of `trained_steps` can be trained.
    """
    recorded = _recorded_steps(spec)
    if not recorded:
        raise ConfigError(
            f"{root} stores no stochastic step: generate it with more steps stored (--store-steps)"
        )
    if objective.on_final_latents and spec.num_inference_steps - 1 not in spec.stored_steps():
        raise ConfigError(
            f"{root} does not store the final latents: generate it with --store-steps all or last:N"
        )
    every = forward_steps(spec) if objective.on_final_latents else recorded
    if trained_steps is None:
        return every, recorded
    steps = tuple(step for step in every if step in trained_steps)
    if not steps:
        raise ConfigError(
            f"trained_steps {trained_steps.start}:{trained_steps.stop} has no trainable step of {root}: "
            f"give a range within {every[0]}:{every[-1] + 1}"
        )
    return steps, tuple(step for step in recorded if step in steps) or recorded


def reference_steps(spec: GenerationSpec, objective: Objective, trained_steps: range | None) -> range | None:
    """Return the steps whose log-probabilities under the reference a training reads; None for all recorded steps.

    They are the trained steps. An objective that reads x_0 alone may train on steps of which none is recorded; then the
    replay checks all recorded steps.
    """
    if trained_steps is None or not objective.on_final_latents:
        return trained_steps
    return trained_steps if set(trained_steps) & set(_recorded_steps(spec)) else None


def _recorded_steps(spec: GenerationSpec) -> tuple[int, ...]:
    stochastic = spec_schedule(spec).stochastic
    return tuple(step for step in spec.stored_steps() if stochastic[step])
