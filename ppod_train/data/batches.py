"""Tensors of one optimizer step.

Shapes: U trajectories, P pairs among them, R stored latents per trajectory, T trained steps, C H W latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ppod_data.dataset.torch_loader import positions_of_step
from ppod_data.diffusion.condition import Condition, Conditioning, take
from ppod_data.format.trajectory import latent_rows, rows_before
from ppod_data.support.noise import generator
from ppod_train.data.training_data import TrainingData, read_latents
from ppod_train.objectives.targets import Targets


class Transition(NamedTuple):
    """Recorded denoising steps, as `Policy.log_prob` takes them. E of them."""

    x_t: torch.Tensor
    """fp32 [E, C, H, W]."""
    x_prev: torch.Tensor
    """x_{t-1}, fp32 [E, C, H, W]."""
    step: torch.Tensor
    """int64 [E]."""
    prompt: Condition
    """c, [E, …]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingBatch:
    """Trajectories of one optimizer step with their targets, on the device."""

    latents: torch.Tensor
    """[R, U, C, H, W], fp32 values of the storage dtype."""
    current: torch.Tensor
    """int64 [T], the row of `latents` that holds x_t of each trained step; the next row holds x_{t-1}. Empty if some
    step is not recorded, as may be for an objective that reads x_0 alone."""
    step_index: torch.Tensor
    """int64 [T], the trained steps of the chain."""
    prompt: Condition
    """c of each trajectory, [U, …]."""
    reference_log_probs: torch.Tensor
    """fp64 [U, T]."""
    targets: Targets
    step_weights: torch.Tensor = field(default_factory=lambda: torch.ones(()))
    """fp64 [T], factor of the log-ratios before the clip (`ppod_train.step.step_weight`). The anchors in `targets` are
    multiplied already."""

    def transition(self, rows: torch.Tensor, columns: torch.Tensor) -> Transition:
        """Return the recorded steps of trajectories `rows` [E] at trained steps `columns` [E]."""
        row = self.current[columns]
        return Transition(
            x_t=self.latents[row, rows],
            x_prev=self.latents[row + 1, rows],
            step=self.step_index[columns],
            prompt=take(self.prompt, rows),
        )


def units_of_step(data: TrainingData, *, step: int, pairs_per_step: int, seed: int) -> NDArray[np.int64]:
    """Return the units of optimizer step `step`: pairs_per_step pairs, or twice as many trajectories.

    Units come from an endless sequence of permutations, one per epoch. The result is a pure function of (data, seed,
    step), so a resumed run needs no state.
    """
    count = pairs_per_step if data.on_pairs else 2 * pairs_per_step
    return data.units[positions_of_step(len(data.units), step=step, count=count, seed=seed)]


def trained_prompts(data: TrainingData) -> tuple[str, ...]:
    """Return the prompts that have a trajectory, in the data sets' order; validation uses these prompts."""
    return tuple(data.prompts[i] for i in np.unique(data.prompt_index))


def timesteps_of_step(
    data: TrainingData, *, step: int, timesteps_per_update: int | None, seed: int
) -> list[int]:
    """Return the chain steps of a training step: all, or a random subset in ascending order."""
    if timesteps_per_update is None or timesteps_per_update >= len(data.steps):
        return list(data.steps)
    subset = generator(seed, "timesteps", step).choice(len(data.steps), timesteps_per_update, replace=False)
    return [data.steps[i] for i in sorted(subset)]


def trajectories_of(
    data: TrainingData, units: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct trajectories of some units, and the positions of the pairs among them.

    The positions list every chosen trajectory, then every rejected one; they are empty without pairs.
    """
    if not data.on_pairs:
        return units, np.array([], np.int64)
    both = np.concatenate([data.chosen[units], data.rejected[units]])
    trajectories, positions = np.unique(both, return_inverse=True)
    return trajectories, positions


def load_batch(
    data: TrainingData, units: NDArray[np.int64], steps: Sequence[int], prompts: Conditioning
) -> TrainingBatch:
    """Read the distinct trajectories of some units, verify their sha256, and move them to the device.

    Args:
        prompts: of `data.prompts`, in their order; the batch goes to their device.
    """
    device = prompts.device
    trajectories, positions = trajectories_of(data, units)
    units = units if data.on_pairs else positions
    on_chain = set(steps) <= set(data.recorded_steps)
    before = rows_before(latent_rows(data.spec.stored_steps()), steps) if on_chain else ()

    def of_steps(values: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(values[trajectories][:, list(steps)]).to(device)

    return TrainingBatch(
        latents=read_latents(data.reader, trajectories).to(device),
        current=torch.tensor(before, dtype=torch.int64, device=device),
        step_index=torch.tensor(list(steps), device=device),
        prompt=prompts.of(data.prompt_index[trajectories].tolist()),
        reference_log_probs=of_steps(data.reference_log_probs),
        targets=Targets(
            chosen=torch.from_numpy(positions[: len(units)]).to(device),
            rejected=torch.from_numpy(positions[len(units) :]).to(device),
            labels=torch.from_numpy(data.labels[units].astype(np.float64)).to(device),
            margins=torch.from_numpy(data.margins[units]).to(device),
            anchors=of_steps(data.anchors),
            advantages=of_steps(data.advantages),
        ),
    )
