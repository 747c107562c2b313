"""Learning-rate schedules, by diffusers' own functions.

Example:
    rate = learning_rate(TrainSettings(learning_rate=1e-3, lr_scheduler="linear"), first_step=0, num_steps=200)
    rate(100)  # 5e-4
"""

from collections.abc import Callable

import torch

from ppod_data.errors import ConfigError
from ppod_train.settings import TrainSettings


def learning_rate(settings: TrainSettings, *, first_step: int, num_steps: int) -> Callable[[int], float]:
    """Return the learning rate of each optimizer step of a run, from 0.

    The rate is a pure function of the step's number, so a resumed run needs no state of the schedule.

    Args:
        settings: with a learning rate; without a schedule, the rate is constant.
        first_step: steps of the whole training before this run.
        num_steps: steps of the whole training, at whose end a falling rate is 0.

    Raises:
        ConfigError: the warm-up is as long as the training.
    """
    from diffusers.optimization import get_scheduler

    assert settings.learning_rate is not None
    peak, warmup = settings.learning_rate, settings.lr_warmup_steps
    if warmup >= num_steps:
        raise ConfigError(f"lr_warmup_steps {warmup} of {num_steps} training steps: give fewer")
    rule = settings.lr_scheduler or "constant"
    name = "constant_with_warmup" if rule == "constant" else rule
    unused = torch.optim.SGD([torch.zeros(1)], lr=peak)
    schedule = get_scheduler(name, unused, num_warmup_steps=warmup, num_training_steps=num_steps)
    (share,) = schedule.lr_lambdas
    return lambda step: peak * float(share(first_step + step))
