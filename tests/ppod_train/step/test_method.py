"""The way to the gradient: what fits into max_graph_gib, the objective's coupling, the share inside the band."""

from typing import Any

import pytest

from ppod_train.objectives import OBJECTIVES
from ppod_train.settings import TrainSettings
from ppod_train.step.method import Method, gradient_method

ROWS, STEPS, BATCH = 8, 20, 4
GROUPS = {"evaluation": BATCH, "step": ROWS, "trajectory": 2 * STEPS}
"""Evaluations that one pass by groups keeps of disjoint pairs."""
GRAPH = 2**20
WEIGHTS = 2**18


def chosen(limit: float, *, share: float = 1.0, **settings: Any) -> Method:
    """Return the choice for an update of 8 trajectories of 20 steps in calls of 4, with room for `limit` graphs."""
    asked = TrainSettings(max_graph_gib=limit * GRAPH / 2**30, **settings)
    return gradient_method(
        asked,
        shape=(ROWS, STEPS),
        group_size=GROUPS[OBJECTIVES[asked.objective].couples],
        batch_size=BATCH,
        graph_bytes=GRAPH,
        trained_bytes=WEIGHTS,
        gradient_share=share,
    )


@pytest.mark.parametrize(
    ("limit", "settings", "expected"),
    [
        (160, {}, "whole-graph"),
        (159, {}, "by-trajectory"),
        (6, {}, "by-trajectory"),  # a call of 4 and 8 buffers of a quarter
        (5.9, {}, "two-pass"),
        (10, {"clip_mode": "pessimistic-step"}, "by-trajectory"),  # three regions
        (9.9, {"clip_mode": "pessimistic-step"}, "two-pass"),
        (9.9, {"pull_back": 0.5}, "two-pass"),
        (40, {"kl_weight": 1.0}, "by-group"),
        (39.9, {"kl_weight": 1.0}, "two-pass"),
        (4, {"objective": "ddpo"}, "by-group"),
        (3.9, {"objective": "ddpo"}, "two-pass"),  # whose calls with a graph may be smaller
        (4, {"objective": "dpok"}, "by-group"),
        (8, {"objective": "d3po"}, "by-group"),
        (7.9, {"objective": "d3po"}, "two-pass"),
    ],
)
def test_auto_takes_one_pass_where_its_memory_fits(
    limit: float, settings: dict[str, Any], expected: Method
) -> None:
    assert chosen(limit, **settings) == expected


@pytest.mark.parametrize("objective", ["ppod", "ddpo", "d3po"])
def test_auto_takes_two_passes_where_most_steps_are_outside_the_band(objective: str) -> None:
    assert chosen(1000, objective=objective, share=0.6) == "two-pass"


def test_a_way_that_is_asked_for_is_taken() -> None:
    assert chosen(1000, gradient="two-pass") == "two-pass"
    assert chosen(6, gradient="one-pass", share=0.1) == "by-trajectory"
    assert chosen(1, gradient="one-pass") == "whole-graph"
    assert chosen(1, gradient="one-pass", objective="ddpo") == "by-group"


def test_calls_that_a_trajectory_does_not_half_fill_are_left_to_two_passes() -> None:
    def of(steps: int, gradient: str) -> Method:
        return gradient_method(
            TrainSettings(max_graph_gib=50 * GRAPH / 2**30, gradient=gradient),
            shape=(64, steps),
            group_size=64 * steps,
            batch_size=16,
            graph_bytes=GRAPH,
            trained_bytes=WEIGHTS,
            gradient_share=1.0,
        )

    assert (of(7, "auto"), of(8, "auto"), of(7, "one-pass")) == ("two-pass", "by-trajectory", "by-trajectory")


@pytest.mark.parametrize(
    ("steps", "limit", "expected"),
    [
        (
            16,
            20,
            "by-trajectory",
        ),  # a call of 16 and 16 buffers of a quarter: full, and less than a group's 32
        (15, 30, "by-group"),
        (15, 29, "by-trajectory"),
        (5, 16, "by-group"),
        (5, 15, "two-pass"),
    ],
)
def test_trajectories_that_pairs_connect_share_calls_that_one_does_not_fill(
    steps: int, limit: int, expected: Method
) -> None:
    """Calls of 16: disjoint pairs of 15 steps are groups of 30, three pairs of 5 steps would be one call."""
    found = gradient_method(
        TrainSettings(max_graph_gib=limit * GRAPH / 2**30),
        shape=(16, steps),
        group_size=max(2 * steps, 16),
        batch_size=16,
        graph_bytes=GRAPH,
        trained_bytes=WEIGHTS,
        gradient_share=1.0,
    )
    assert found == expected
