"""Trajectories for torch's DataLoader, in an order that is a pure function of (seed, step).

The only state to save is the number of the next step. A stopped run resumes with exactly the batches that it
had not seen, also with other numbers of ranks and workers.

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
    """Return the `count` of `total` items that step `step` takes, int64 [count].

    The items are a slice of an endless sequence of permutations, one an epoch: a pure function of the
    arguments. Every item occurs once an epoch, also if a step spans two epochs.
    """
    positions = np.arange(step * count, (step + 1) * count)
    return np.array([_epoch(total, seed, int(at // total))[at % total] for at in positions], np.int64)


@lru_cache(maxsize=2)  # a step spans at most two epochs; permuting ten million items takes a while
def _epoch(total: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return generator(seed, "epoch", epoch).permutation(total)


class Trajectories(TorchDataset[dict[str, Any]]):
    """A map-style data set with one trajectory an item, read and checked by sha256 item by item.

    For a data set in an object store, the items of a batch are fetched concurrently.

    An item has "sample_id", "prompt", "latents" [R, C, H, W] in the storage dtype, "latent_index" int64 [R],
    "timesteps" int64 [T], and "log_probs" float64 [T], NaN for steps without a density.
    """

    def __init__(self, dataset: Dataset, sample_ids: Sequence[str] | None = None) -> None:
        """Index the trajectories without reading their latents.

        Args:
            dataset: the data set.
            sample_ids: the samples; by default all available ones.
        """
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
        """Return the items of a batch; torch's DataLoader calls this method."""
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(index)
        rows = [row for index in indices for row in self._rows.slice(index, 1).to_pylist()]
        return [_item(chain) for chain in Reader.of(self._dataset, rows).read(range(len(rows)))]


def _item(chain: Trajectory) -> dict[str, Any]:
    log_probs = [float("nan") if value is None else value for value in chain.log_probs]
    return {
        "sample_id": chain.sample_id,
        "prompt": chain.prompt,
        "latents": chain.latents,
        "latent_index": torch.tensor(chain.latent_index),
        "timesteps": torch.tensor(chain.timesteps),
        "log_probs": torch.tensor(log_probs, dtype=torch.float64),
    }


class Steps(Sampler[list[int]]):
    """The batches of one rank, for `DataLoader(..., batch_sampler=Steps(...))`; endless without a last step.

    The `batch_size` items of a step, over all ranks, do not depend on the number of ranks. Rank r of w takes
    every w-th.
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
        """Check the sizes.

        Args:
            total: the number of items.
            batch_size: items of a step over all ranks; a multiple of world_size.
            seed: the seed of the permutations.
            first_step: the step to resume at: the number of completed steps.
            last_step: one past the last step.
            rank: this process.
            world_size: the number of ranks.

        Raises:
            ConfigError: no items, an invalid rank, or a batch that the ranks cannot share evenly.
        """
        if total < 1 or batch_size < 1:
            raise ConfigError(f"{total} items in batches of {batch_size}: both must be at least 1")
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
