"""Checks of a training that need no data: what `prepare` would refuse, known before a run samples its own data."""

from ppod_data.format.spec import GenerationSpec
from ppod_train.data.steps import chain_steps
from ppod_train.objectives import OBJECTIVES
from ppod_train.policy.fsdp import check_can_shard
from ppod_train.policy.policy import check_precision
from ppod_train.run.model_defaults import check_subset, resolve
from ppod_train.settings import TrainSettings, step_range
from ppod_train.step.learning_rate import learning_rate


def check_start(
    settings: TrainSettings, spec: GenerationSpec, *, num_steps: int, sharded: bool = False
) -> None:
    """Check the settings of a training against the chain of the data that it will train on.

    Args:
        settings: as given; the model's defaults are filled in.
        spec: spec of the data that the reference will sample.
        num_steps: optimizer steps of the whole training, over all of its parts.
        sharded: whether the processes share the weights.

    Raises:
        ConfigError: a warm-up as long as the training, trained steps outside the chain, a subset of the timesteps that
            biases the gradient, all weights in half precision, or settings that sharded weights do not support.
    """
    if sharded:
        check_can_shard(settings)
    check_precision(settings.rank, spec.compute_dtype)
    trained = step_range(settings.trained_steps)
    steps, _ = chain_steps(spec, OBJECTIVES[settings.objective], trained, "the data of this run")
    resolved = resolve(settings, spec)
    check_subset(resolved, len(steps))
    learning_rate(resolved, first_step=0, num_steps=num_steps)
