"""Learning-rate schedules: the values of a run, and of the stages that share one."""

import pytest

from ppod_data.errors import ConfigError
from ppod_train.settings import TrainSettings
from ppod_train.step.learning_rate import learning_rate


def rates(rule: str, steps: range, *, warmup: int = 0, first_step: int = 0) -> list[float]:
    settings = TrainSettings(learning_rate=1e-3, lr_scheduler=rule, lr_warmup_steps=warmup)
    rate = learning_rate(settings, first_step=first_step, num_steps=8)
    return [rate(step) for step in steps]


def test_a_constant_rate_is_the_given_one_to_the_bit() -> None:
    assert rates("constant", range(20)) == [1e-3] * 20
    assert rates("constant", range(6), warmup=4) == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


def test_a_falling_rate_is_0_at_the_end_of_the_training() -> None:
    assert rates("linear", range(0, 9, 2)) == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4, 0])
    assert rates("linear", range(0, 9, 2), warmup=4) == pytest.approx([0, 5e-4, 1e-3, 5e-4, 0])
    assert rates("cosine", range(0, 9, 4)) == pytest.approx([1e-3, 5e-4, 0])


def test_a_stage_continues_the_schedule_of_the_stage_before() -> None:
    for rule in ("linear", "cosine"):
        stages = rates(rule, range(4), warmup=2) + rates(rule, range(4), warmup=2, first_step=4)
        assert stages == rates(rule, range(8), warmup=2)


def test_a_warm_up_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(ConfigError, match="lr_warmup_steps 8 of 8 training steps"):
        rates("constant", range(1), warmup=8)
