"""Trajectories for torch's DataLoader, in an order that is a pure function of (seed, step).

There is no state to save but the number of the next step: a run that was stopped anywhere goes on with exactly the
batches that it had not seen, also with other numbers of ranks and workers.

Shapes: T steps of the chain, R stored latents, C H W latent.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.trajectory_reader import Reader
from ppod_data.errors import ConfigError
from ppod_data.format.trajectory import Trajectory
from ppod_data.support.noise import generator


def positions_of_step(total: int, *, step: int, count: int, seed: int) -> NDArray[np.int64]:
    """Which `count` of `total` items step `step` takes, int64 [count].

    A run of an endless sequence of permutations, one an epoch: a pure function of its arguments. Every item comes once
    an epoch, also where a step spans two of them.
    """
    positions = np.arange(step * count, (step + 1) * count)
    return np.array([_epoch(total, seed, int(at // total))[at % total] for at in positions], np.int64)


@lru_cache(
    maxsize=2
)  # a step is of one epoch, or of two neighbours; making it takes a while for ten million items
def _epoch(total: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return generator(seed, "epoch", epoch).permutation(total)


class Trajectories(TorchDataset[dict[str, Any]]):
    """A map-style data set of one item a trajectory; the files are read, and checked by sha256, item by item.

    Of a data set in a store, the items of a batch are got at the same time.

    An item: "sample_id", "prompt", "latents" [R, C, H, W] in the storage
    dtype, "latent_index" int64 [R], "timesteps" int64 [T], "log_probs" float64 [T], NaN where a step has no density.
    """

    def __init__(self, dataset: Dataset, sample_ids: Sequence[str] | None = None) -> None:
        """`sample_ids`: all samples that are made, by default; their places are read now, their latents are not."""
        if sample_ids is None:
            sample_ids = dataset.samples(["sample_id"])["sample_id"].to_pylist()
        self._dataset = dataset
        self._rows = dataset.trajectory_index(sample_ids)

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        [item] = self.__getitems__([index])
        return item

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The items of a batch: torch's DataLoader asks for them in this way."""
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(index)
        rows = [row for index in indices for row in self._rows.slice(index, 1).to_pylist()]
        return [_item(chain) for chain in Reader.of(self._dataset, rows).read(range(len(rows)))]


def _item(chain: Trajectory) -> dict[str, Any]:
    known = [float("nan") if value is None else value for value in chain.log_probs]
    return {
        "sample_id": chain.sample_id,
        "prompt": chain.prompt,
        "latents": chain.latents,
        "latent_index": torch.tensor(chain.latent_index),
        "timesteps": torch.tensor(chain.timesteps),
        "log_probs": torch.tensor(known, dtype=torch.float64),
    }


class Steps(Sampler[list[int]]):
    """The batches of one rank, for `DataLoader(..., batch_sampler=Steps(...))`; endless unless it has a last step.

    The `batch_size` items of a step, all ranks together, do not depend on the number of ranks: rank r of w takes every
    w-th of them.
    """

    def __init__(
        self,
        total: int,
        *,
        batch_size: int,
        seed: int = 0,
        first_step: int = 0,
        last_step: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """
        Args:
            batch_size: of all ranks together; a multiple of world_size.
            first_step: where to go on; the number of steps that were done.
            last_step: one past the last step.

        Raises:
            ConfigError: nothing to draw from, a rank of no world, or a batch that ranks cannot share evenly.
        """
        if total < 1 or batch_size < 1:
            raise ConfigError(f"{total} items in batches of {batch_size}: there must be some of both")
        if not 0 <= rank < world_size or batch_size % world_size:
            raise ConfigError(
                f"rank {rank} of {world_size} with batches of {batch_size}: give a multiple of the number of ranks"
            )
        self._total, self._batch_size, self._seed = total, batch_size, seed
        self._first, self._last = first_step, last_step
        self._rank, self._world_size = rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        step = self._first
        while self._last is None or step < self._last:
            positions = positions_of_step(self._total, step=step, count=self._batch_size, seed=self._seed)
            yield positions[self._rank :: self._world_size].tolist()
            step += 1
