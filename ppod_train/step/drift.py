"""Replay stored steps before training: does the trainer compute the log-probabilities that the sampler recorded?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ppod_data.diffusion.policy import Policy
from ppod_data.errors import DriftError
from ppod_data.support.noise import generator
from ppod_train.data.batches import load_batch
from ppod_train.data.training_data import TrainingData
from ppod_train.distributed import SINGLE_PROCESS, Workers
from ppod_train.step.gradient import all_log_probs
from ppod_train.step.log_probs import batch_log_probs

_SECOND_FACTOR = "lora_B"
_MOVE = 1e-4
"""Enough that bf16 rounds otherwise, too little for a second-order change of the mean."""
_P99 = 2.33
"""Of a standard normal."""
_UNUSUAL = 2
"""Trajectories that are replayed because their recorded numbers are far from the others'."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """|replayed − stored| log-probability of an untouched policy."""

    steps: tuple[int, ...]
    """The chain steps that were replayed."""
    median: tuple[float, ...]
    """For each step."""
    p99: tuple[float, ...]
    overall_p99: float
    largest: tuple[float, ...] = ()
    """For each step, of all that were replayed, those with the most unusual recorded numbers among them."""
    share_exact: float
    """The share of replayed steps whose log-probability is the stored one to the last bit."""
    unchecked: bool = False
    """Whether the clip is around a policy whose recorded numbers could not be replayed: it is not on this machine."""
    rounding: tuple[float, ...] = ()
    """For each step, how far the network's rounding moves a log-ratio once weights have moved (`measure_rounding`);
    empty where it was not measured."""


@torch.no_grad()
def measure_drift(
    data: TrainingData,
    policy: Policy,
    *,
    num_trajectories: int,
    batch_size: int,
    maker: str | None = None,
    workers: Workers = SINGLE_PROCESS,
) -> Drift:
    """Replay all trained steps of some trajectories in the trainer's batch shape, guidance mode and precision.

    Args:
        policy: whose log-probabilities are compared: the reference, or the policy that made a part of the data.
        maker: fingerprint of `policy` if its recorded log-probabilities of that part are compared; None to compare
            the reference's of all data.
    """
    units = data.units if maker is None else data.units_of(data.made_by(maker))
    count = min(num_trajectories, len(units))
    recorded = maker is not None
    unusual = _most_unusual(data, units, min(_UNUSUAL, count // 2), recorded)
    # Evenly spaced units are of every data set and of many prompts.
    spread = np.linspace(0, len(units) - 1, count - len(unusual)).astype(int)
    places = np.unique(np.concatenate([spread, unusual]))
    batch = load_batch(data, units[places], data.recorded_steps, policy.prompts)
    stored = batch.reference_log_probs + (batch.targets.anchors if recorded else 0.0)
    replayed = all_log_probs(batch_log_probs(policy, batch), stored, chunk_size=batch_size, workers=workers)
    error = (replayed - stored).abs().cpu().numpy()
    return Drift(
        steps=data.recorded_steps,
        median=tuple(np.median(error, axis=0).tolist()),
        p99=tuple(np.quantile(error, 0.99, axis=0).tolist()),
        overall_p99=float(np.quantile(error, 0.99)),
        largest=tuple(error.max(axis=0).tolist()),
        share_exact=float((error == 0).mean()),
    )


@torch.no_grad()
def measure_rounding(
    data: TrainingData,
    policy: Policy,
    parameters: Mapping[str, torch.nn.Parameter],
    *,
    batch_size: int,
    workers: Workers = SINGLE_PROCESS,
) -> tuple[float, ...]:
    """How far the network's rounding moves each step's log-ratio as soon as LoRA weights have moved, [T]: its p99.

    An untouched policy replays its own roundings, and the difference is 0. A policy that has moved rounds otherwise. Of
    the means μ under LoRA weights B + h, B and B − h, the difference μ₊ + μ₋ − 2μ₀ has no first-order change: it is
    rounding, three times the variance of that of μ₊ − μ₀. An error δ of μ/σ makes the log-ratio smaller by δ²/2, and
    scatters it by δ/√N. One trajectory a step is asked; the weights are put back to the last bit.

    Empty where all weights train, which they do in fp32 alone. There, and for LoRA in fp32, rounding is a millionth and
    a clip that could not tell it from training is one that `check_drift` refuses.
    """
    factors = [value for name, value in parameters.items() if _SECOND_FACTOR in name]
    if not factors:
        return ()
    count = min(batch_size, len(data.units))
    places = np.linspace(0, len(data.units) - 1, count).astype(int)
    batch = load_batch(data, data.units[places], data.recorded_steps, policy.prompts)
    columns = torch.arange(len(data.recorded_steps), device=policy.device)
    rows = columns % batch.latents.shape[1]
    before = [value.detach().clone() for value in factors]
    signs = [_signs(value, number) for number, value in enumerate(factors)]
    square = torch.zeros(len(columns), dtype=torch.float64, device=columns.device)
    chunks = [columns[first : first + batch_size] for first in range(0, len(columns), batch_size)]
    for chunk, counts in workers.strided(chunks):
        x_t, _, step, prompt = batch.transition(rows[chunk], chunk)
        difference: torch.Tensor | float = 0.0
        for move, share in ((_MOVE, 1), (-_MOVE, 1), (0.0, -2)):
            for value, old, sign in zip(factors, before, signs, strict=True):
                value.copy_(old + move * sign)
            difference = difference + share * policy.mean(x_t, step, prompt).double()
        assert isinstance(difference, torch.Tensor)
        square[chunk] = counts * (difference**2).flatten(1).mean(dim=1) / 3
    for value, old in zip(factors, before, strict=True):
        value.copy_(old)
    workers.sum(square)
    error = square.sqrt() / policy.schedule.std.double()[batch.step_index]
    scatter = error / batch.latents[0, 0].numel() ** 0.5
    return tuple((error**2 / 2 + _P99 * scatter).tolist())


def _signs(value: torch.Tensor, number: int) -> torch.Tensor:
    """Numbers of ± 1 of a tensor's shape, the same in every process."""
    drawn = generator(0, "rounding", number).integers(0, 2, tuple(value.shape)) * 2.0 - 1.0
    return torch.from_numpy(drawn).to(value)


def check_rounding(
    drift: Drift,
    log_ratio_clip: float,
    step_weights: NDArray[np.float64],
    compute_dtype: str,
    *,
    even_weights: NDArray[np.float64],
) -> None:
    """Refuse training that would leave the clip band by rounding alone.

    Args:
        even_weights: the weights of `--step-weight k2`. The message names the option if it is enough.

    Raises:
        DriftError: rounding exceeds a tenth of the clip at some step.
    """
    if not drift.rounding:
        return
    step, largest = worst_step(drift.steps, drift.rounding, step_weights)
    if not largest <= log_ratio_clip / 10:
        better = "fp32" if compute_dtype == "fp16" else "fp16, which rounds an eighth as much, or fp32"
        enough = worst_step(drift.steps, drift.rounding, even_weights)[1] <= log_ratio_clip / 10
        raise DriftError(
            f"once weights have moved, rounding in {compute_dtype} moves log-ratios of step {step} by {largest:.1e}, "
            f"more than a tenth of the clip {log_ratio_clip:g}: make the data and train in {better} (for existing "
            "data, run `ppod-data log-probs --compute-dtype fp32` and its next line), "
            f"{'give --step-weight k2, ' if enough else ''}or give --log-ratio-clip {_at_least(10 * largest)} or more"
        )


def _at_least(value: float) -> str:
    """Format a number, rounded up to two significant digits."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / digit) * digit:.2g}"


def worst_step(
    steps: Sequence[int], values: Sequence[float], step_weights: NDArray[np.float64] | None
) -> tuple[int, float]:
    """Return the step with the largest weighted value, and that value; NaN is larger than any number."""
    scaled = np.array(values) * (1.0 if step_weights is None else step_weights[list(steps)])
    place = int(np.argmax(scaled))
    return steps[place], float(scaled[place])


def check_drift(drift: Drift, log_ratio_clip: float, step_weights: NDArray[np.float64] | None = None) -> None:
    """Raise DriftError where the clip band could not tell training from rounding, or one number is plainly wrong.

    step_weights: of each step of the chain, which the loss multiplies log-ratios by; None for 1.
    """
    _, largest = worst_step(drift.steps, drift.p99, step_weights)
    if not largest <= log_ratio_clip / 10:  # a NaN is refused as well
        raise DriftError(
            f"replayed log-probabilities differ from the stored ones by {largest:.1e} (p99 of the worst "
            f"step), more than a tenth of the clip {log_ratio_clip:g}: recompute the reference's with "
            "`ppod-data log-probs` and name them by --reference-log-probs, train with --compute-dtype fp32, or "
            "widen --log-ratio-clip"
        )
    _, single = worst_step(drift.steps, drift.largest or (0.0,) * len(drift.steps), step_weights)
    if not single <= log_ratio_clip:
        raise DriftError(
            f"a replayed log-probability differs from the stored one by {single:.1e}, more than the clip "
            f"{log_ratio_clip:g}, and others do not: some recorded numbers are wrong: find them with ppod-data verify "
            "--model, and exclude these samples"
        )


def _most_unusual(
    data: TrainingData, units: NDArray[np.int64], count: int, recorded: bool
) -> NDArray[np.int64]:
    """Return the positions in `units` of the `count` trajectories whose stored values are farthest from the median.

    A few wrong values among many right ones are rarely in a sample, and always at an end of their step's range.
    """
    values = data.behaviour_log_probs if recorded else data.reference_log_probs
    values = values[:, list(data.recorded_steps)]
    distance = np.abs(values - np.median(values, axis=0))
    scale = np.median(distance, axis=0) + np.finfo(np.float64).tiny
    with np.errstate(over="ignore"):
        order = np.argsort(-(distance / scale).max(axis=1), kind="stable")
    positions: list[int] = []
    for row in order.tolist():
        if len(positions) == count:
            break
        if data.on_pairs:
            here = np.flatnonzero((data.chosen[units] == row) | (data.rejected[units] == row))[:1]
        else:
            here = np.flatnonzero(units == row)
        positions += here.tolist()
    return np.array(positions, np.int64)
