"""The reference's log-probabilities of recorded chains: recorded during sampling, or computed later."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.generation.log_probs import policy_of, steps_of
from ppod_data.storage.files import DataPath


def reference_log_probs_of(
    dataset: Dataset, index: Any, policy_fingerprint: str, name: str | None, trained_steps: Sequence[int]
) -> NDArray[np.float64]:
    """Return log π_ref [M, T] of M trajectories.

    The values are the recorded ones if the reference made the data; otherwise they come from a table under log_probs/.
    They are NaN for steps without a density.

    Args:
        index: the table of `Dataset.trajectory_index`.
        policy_fingerprint: fingerprint of the reference.
        name: the table to read; None for the recorded values or the first table computed by the reference.
        trained_steps: a table that was computed for other steps alone is passed over.

    Raises:
        ConfigError: no log-probabilities of this reference, or not for every sample.
    """
    steps = dataset.spec.num_inference_steps
    mismatch = f"was made by another model ({dataset.spec.model})"
    if name is None and dataset.spec.policy_fingerprint == policy_fingerprint:
        return log_prob_matrix(index["log_probs"], steps, dataset.root)
    names = dataset.log_prob_names() if name is None else [name]
    made_by = dataset.spec.policy_fingerprint
    for table_name in names:
        table = dataset.log_probs(table_name)
        if policy_of(table) == policy_fingerprint:
            if (computed := steps_of(table)) is not None and not set(trained_steps) <= set(computed):
                mismatch = f"has in log_probs/{table_name} the steps {computed.start}:{computed.stop} alone"
                continue
            positions = pc.index_in(index["sample_id"], value_set=table["sample_id"].combine_chunks())
            if not positions.null_count:
                rows: NDArray[np.int64] = positions.to_numpy()
                where = dataset.root / "log_probs" / table_name
                return log_prob_matrix(table["log_probs"], steps, where)[rows]
            raise ConfigError(
                f"{dataset.root}/log_probs/{table_name} lacks some samples: run its `ppod-data log-probs` again"
            )
        if name is not None:
            made_by, mismatch = policy_of(table), f"has in log_probs/{name} those of another model"
    raise ConfigError(
        f"{dataset.root} {mismatch}, fingerprint {made_by[:16]}…; the reference has the fingerprint "
        f"{policy_fingerprint[:16]}…: give the model that made the data, or compute the reference's "
        "log-probabilities with `ppod-data log-probs`"
    )


def log_prob_matrix(column: Any, num_steps: int, where: DataPath) -> NDArray[np.float64]:
    """Convert an Arrow column of M lists of T numbers to [M, T]; nulls become NaN.

    Raises:
        DamagedError: a list of another length, NaN or infinity; the message names `where`.
    """
    if (
        column.null_count
        or not pc.all(pc.equal(pc.list_value_length(column), num_steps), min_count=0).as_py()
    ):
        raise DamagedError(
            f"{where}: expected {num_steps} log-probabilities per sample, one per step: run ppod-data verify"
        )
    flat = pc.list_flatten(column)
    if not pc.all(pc.is_finite(flat), min_count=0).as_py():
        raise DamagedError(f"{where}: a log-probability is NaN or infinite: run ppod-data verify")
    values: NDArray[np.float64] = flat.fill_null(math.nan).to_numpy()
    return values.reshape(-1, num_steps)
