"""How the exact gradient of an update is computed: every way gives the same gradient, at another cost.

whole-graph    one pass, the graph of all evaluations in memory
by-group       one pass, the graph of one call, or of the calls whose weights depend on each other, or of as many as
               fill the calls (`ppod_train.step.groups`)
by-trajectory  one pass, the graph of one call and a buffer of the trained weights for each trajectory and region
two-pass       values first, then the evaluations whose gradient is not 0, with the graph of one call
"""

import math
from typing import Literal

from ppod_train.objectives import OBJECTIVES
from ppod_train.settings import TrainSettings

Method = Literal["whole-graph", "by-group", "by-trajectory", "two-pass"]

# A backward pass costs about twice a forward: below this share of steps with a gradient, a second forward pass over
# those alone is cheaper than one backward pass over all.
_ONE_PASS_SHARE = 2 / 3


def gradient_method(
    settings: TrainSettings,
    *,
    shape: tuple[int, int],
    group_size: int,
    batch_size: int,
    graph_bytes: int,
    trained_bytes: int,
    gradient_share: float,
) -> Method:
    """Choose by `settings.gradient`, by what fits into `max_graph_gib`, and by the expected share inside the band.

    Args:
        shape: (U, T) of an update.
        group_size: evaluations whose graph one pass by groups keeps.
        batch_size: evaluations of one network call.
        graph_bytes: memory that the graph of one evaluation holds.
        trained_bytes: memory of the trained weights.
        gradient_share: the share of evaluations with a gradient in the step before, 1 at the first.
    """
    if settings.gradient == "two-pass":
        return "two-pass"
    share = 1.0 if settings.kl_weight else gradient_share  # every step has a KL
    if settings.gradient == "auto" and share < _ONE_PASS_SHARE:
        return "two-pass"
    num_rows, num_steps = shape
    couples = OBJECTIVES[settings.objective].couples
    if couples == "trajectory" and graph_bytes * num_rows * num_steps <= settings.graph_limit:
        return "whole-graph"
    call = min(batch_size, num_steps)
    kept = graph_bytes * call + trained_bytes * num_rows * regions_of(settings)
    by_trajectory = couples == "trajectory" and not settings.kl_weight and kept <= settings.graph_limit
    if by_trajectory and call == batch_size:  # calls are full, and less is kept than of a group
        return "by-trajectory"
    if graph_bytes * group_size <= settings.graph_limit:
        return "by-group"
    if couples != "trajectory":
        return "by-group" if settings.gradient == "one-pass" else "two-pass"
    if by_trajectory and (settings.gradient == "one-pass" or 2 * call >= batch_size):
        return "by-trajectory"
    return "whole-graph" if settings.gradient == "one-pass" else "two-pass"


def regions_of(settings: TrainSettings) -> int:
    """Return the regions of the clip band that need a buffer: 1 in Eq. 10, which has no gradient outside, else 3."""
    return 1 if settings.clip_mode == "paper" and not settings.pull_back else 3


def graph_size(settings: TrainSettings, graph_bytes: int) -> int:
    """Return the evaluations whose graph `max_graph_gib` holds; 0 without a limit."""
    fitting = settings.graph_limit / max(graph_bytes, 1)
    return math.floor(fitting) if math.isfinite(fitting) else 0


def backward_rows(settings: TrainSettings, batch_size: int, graph_bytes: int) -> int:
    """Return the evaluations of a call that keeps a graph: at most `batch_size`, and what `max_graph_gib` holds."""
    fitting = settings.graph_limit / max(graph_bytes, 1)
    return max(1, math.floor(min(batch_size, fitting)))
