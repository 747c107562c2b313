"""The number of processes: bounded by cores, shards and memory, and one for a small job."""

import os

import pytest

from ppod_data.cluster.local_processes import (
    LocalProcesses,
    choose_processes,
    is_worth_sharing,
    network_flops,
)
from ppod_data.support.machine import available_memory, num_cores

AUTO = LocalProcesses(device="cpu")


def test_cores_are_those_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert num_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= num_cores() <= len(allowed)


def test_auto_takes_every_core_unless_there_are_fewer_shards() -> None:
    choice = choose_processes(AUTO, shares=1000, memory=0)
    assert choice.devices == ("cpu",) * num_cores()
    assert choose_processes(AUTO, shares=1, memory=0).devices == ("cpu",)


@pytest.mark.skipif(num_cores() < 2, reason="a single core has nothing to share")
def test_auto_takes_no_more_processes_than_fit_into_memory() -> None:
    choice = choose_processes(AUTO, shares=1000, memory=available_memory())
    assert choice.devices == ("cpu",)
    assert choice.reason.startswith("1 process on ") and choice.reason.endswith(" free")


def test_a_number_is_taken_as_it_is_but_for_the_shards() -> None:
    assert len(choose_processes(LocalProcesses(count=5, device="cpu"), shares=9, memory=10**15).devices) == 5
    assert len(choose_processes(LocalProcesses(count=5, device="cpu"), shares=3, memory=10**15).devices) == 3


def test_a_job_of_seconds_is_not_shared_and_one_of_minutes_is() -> None:
    """The embedded network: 24 images of 20 steps, and 1,024. Stable Diffusion: four images."""
    assert not is_worth_sharing(network_flops(2_200_000, (4, 8, 8), 24 * 20), "cpu")
    assert is_worth_sharing(network_flops(2_200_000, (4, 8, 8), 1024 * 20), "cpu")
    assert is_worth_sharing(network_flops(860_000_000, (4, 64, 64), 4 * 50 * 2), "cpu")
