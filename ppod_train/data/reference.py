"""The reference's log-probabilities of recorded chains: as recorded, or from a table that was computed later."""

import math
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.generation.log_probs import policy_of
from ppod_data.storage.files import DataPath


def reference_log_probs_of(
    dataset: Dataset, index: Any, policy_fingerprint: str, name: str | None
) -> NDArray[np.float64]:
    """log π_ref [M, T] of M trajectories: as recorded where the reference made the data, else from log_probs/.

    NaN where a step has no density.

    Args:
        index: the table of `Dataset.trajectory_index`.
        policy_fingerprint: the reference's.
        name: the table to read; None for the recorded ones, or the first table that is the reference's.

    Raises:
        ConfigError: there are none of this reference, or not of every sample.
    """
    steps = dataset.spec.num_inference_steps
    whose = f"was made by another model ({dataset.spec.model})"
    if name is None and dataset.spec.policy_fingerprint == policy_fingerprint:
        return log_prob_matrix(index["log_probs"], steps, dataset.root)
    names = dataset.log_prob_names() if name is None else [name]
    made_by = dataset.spec.policy_fingerprint
    for table_name in names:
        table = dataset.log_probs(table_name)
        if policy_of(table) == policy_fingerprint:
            at = pc.index_in(index["sample_id"], value_set=table["sample_id"].combine_chunks())
            if not at.null_count:
                rows: NDArray[np.int64] = at.to_numpy()
                where = dataset.root / "log_probs" / table_name
                return log_prob_matrix(table["log_probs"], steps, where)[rows]
            raise ConfigError(
                f"{dataset.root}/log_probs/{table_name} lacks some samples: run its `ppod-data log-probs` again"
            )
        if name is not None:
            made_by, whose = policy_of(table), f"has under log_probs/{name} those of another model"
    raise ConfigError(
        f"{dataset.root} {whose}, fingerprint {made_by[:16]}…, than the reference "
        f"({policy_fingerprint[:16]}…): give the model that made the data, or compute the reference's "
        "log-probabilities with `ppod-data log-probs`"
    )


def log_prob_matrix(column: Any, num_steps: int, where: DataPath) -> NDArray[np.float64]:
    """[M, T] of an Arrow column of M lists of T numbers; NaN where there is none.

    Raises DamagedError, naming `where`, for a list of another length, and for NaN or infinity.
    """
    if (
        column.null_count
        or not pc.all(pc.equal(pc.list_value_length(column), num_steps), min_count=0).as_py()
    ):
        raise DamagedError(
            f"{where}: a sample has not {num_steps} log-probabilities, one a step: run ppod-data verify"
        )
    flat = pc.list_flatten(column)
    if not pc.all(pc.is_finite(flat), min_count=0).as_py():
        raise DamagedError(f"{where}: a log-probability is NaN or infinite: run ppod-data verify")
    values: NDArray[np.float64] = flat.fill_null(math.nan).to_numpy()
    return values.reshape(-1, num_steps)
