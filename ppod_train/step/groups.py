"""Network calls in groups: a group holds all that the weights of its evaluations depend on.

Shapes: U trajectories, T timesteps, P pairs, E evaluations (trajectory, timestep) of one network call.

The weight g_ut = ∂L/∂ℓ_ut of an evaluation depends on nothing else (DDPO, DPOK, SFT), on the log-ratios of its step
(D3PO, Diffusion-DPO), or on all steps of the trajectories that pairs connect with u (Eq. 10). Once a group is
evaluated, its weights are known, and its graph can be back-propagated and freed.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ppod_train.objectives import Coupling

Places = tuple[torch.Tensor, torch.Tensor]
Group = Sequence[Places]
"""Network calls (rows [E], columns [E])."""
_FULL = 0.9  # the share of its largest size from which a call counts as full


def evaluation_groups(
    couples: Coupling, like: torch.Tensor, pairs: torch.Tensor, *, chunk_size: int, graph_size: int = 0
) -> list[Group]:
    """Return groups that hold every evaluation once.

    Args:
        like: of the shape [U, T] and on the device.
        pairs: int64 [2, P], the trajectories of each pair; read if weights depend on whole trajectories.
        chunk_size: evaluations of one network call. A group is one call, or more if what belongs together needs more.
        graph_size: evaluations whose graph may be kept. A group whose calls are not full grows up to it, because a
            full call costs less for each evaluation.
    """
    num_rows, num_columns = like.shape
    places = torch.arange(num_rows * num_columns, device=like.device).view(num_columns, num_rows)
    if couples == "trajectory":
        together = [places[:, rows].flatten() for rows in connected(pairs, num_rows)]
    elif couples == "step":
        together = list(places)
    else:
        together = list(torch.split(places.flatten(), chunk_size))
    groups: list[list[torch.Tensor]] = [[]]
    for piece in together:
        size = sum(map(len, groups[-1]))
        full = size >= _FULL * chunk_size * math.ceil(size / chunk_size)
        if size and size + len(piece) > (chunk_size if full else max(chunk_size, graph_size)):
            groups.append([])
        groups[-1].append(piece)
    return [[(call % num_rows, call // num_rows) for call in _calls(group, chunk_size)] for group in groups]


def _calls(group: Sequence[torch.Tensor], chunk_size: int) -> Sequence[torch.Tensor]:
    """Divide a group into the fewest calls, of equal sizes within one."""
    places = torch.cat(tuple(group))
    return torch.tensor_split(places, math.ceil(len(places) / chunk_size))


def connected(pairs: torch.Tensor, num_rows: int) -> list[list[int]]:
    """Return the sets of trajectories that pairs connect, a trajectory without a pair by itself.

    Args:
        pairs: int64 [2, P].
    """
    first, second = pairs.cpu().numpy()
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(num_rows, num_rows))
    count, labels = connected_components(graph, directed=False)
    return [np.flatnonzero(labels == number).tolist() for number in range(count)]


def group_size(groups: Sequence[Group]) -> int:
    """Return the evaluations of the largest group, whose graph is kept."""
    return max(sum(len(rows) for rows, _ in group) for group in groups)
