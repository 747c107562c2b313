"""Groups of network calls: every evaluation once, what belongs together in one group, calls as full as that allows."""

import torch

from ppod_train.step.groups import Group, connected, evaluation_groups, group_size

LIKE = torch.zeros(6, 5)
PAIRS = torch.tensor([[0, 3, 4], [1, 4, 5]])
"""0 and 1; 3, 4 and 5; nothing with 2."""


def sizes(groups: list[Group]) -> list[list[int]]:
    return [[len(rows) for rows, _ in group] for group in groups]


def rows_of(group: Group) -> set[int]:
    return {int(row) for rows, _ in group for row in rows}


def test_every_evaluation_is_in_one_call() -> None:
    for couples in ("evaluation", "step", "trajectory"):
        for chunk_size in (1, 7, 100):
            seen = torch.zeros(6, 5)
            for group in evaluation_groups(couples, LIKE, PAIRS, chunk_size=chunk_size):
                for rows, columns in group:
                    assert len(rows) <= chunk_size
                    seen[rows, columns] += 1
            assert bool((seen == 1).all())


def test_trajectories_that_pairs_connect_are_in_one_group() -> None:
    assert connected(PAIRS, 6) == [[0, 1], [2], [3, 4, 5]]
    groups = evaluation_groups("trajectory", LIKE, PAIRS, chunk_size=8)
    assert [rows_of(group) for group in groups] == [{0, 1}, {2}, {3, 4, 5}]
    assert sizes(groups) == [[5, 5], [5], [8, 7]]
    assert group_size(groups) == 15


def test_small_sets_share_a_call() -> None:
    groups = evaluation_groups("trajectory", LIKE, PAIRS, chunk_size=15)
    assert [rows_of(group) for group in groups] == [{0, 1, 2}, {3, 4, 5}]
    assert sizes(groups) == [[15], [15]]


def test_a_step_is_whole_and_a_single_evaluation_is_free() -> None:
    assert sizes(evaluation_groups("step", LIKE, PAIRS, chunk_size=4)) == [[3, 3]] * 5
    assert sizes(evaluation_groups("step", LIKE, PAIRS, chunk_size=13)) == [[12], [12], [6]]
    assert sizes(evaluation_groups("evaluation", LIKE, PAIRS, chunk_size=13)) == [[13], [13], [4]]


def test_calls_are_filled_from_what_may_be_kept() -> None:
    """Pairs of 10 evaluations in calls of 16: alone a call is 10, three pairs are two calls of 15."""
    pairs = torch.arange(12).view(6, 2).T
    like = torch.zeros(12, 5)
    for kept, expected in ((0, [[10]] * 6), (29, [[10, 10]] * 3), (30, [[15, 15]] * 2), (99, [[15, 15]] * 2)):
        groups = evaluation_groups("trajectory", like, pairs, chunk_size=16, graph_size=kept)
        assert sizes(groups) == expected
