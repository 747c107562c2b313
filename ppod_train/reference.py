"""The reference's log-probabilities of recorded chains: as recorded, or from a table that was computed later."""

from collections.abc import Sequence
from typing import Any

from ppod_data.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.log_probs import policy_of


def reference_log_probs_of(
    dataset: Dataset, index: Sequence[dict[str, Any]], policy_fingerprint: str, name: str | None
) -> dict[str, list[float | None]]:
    """sample_id -> log π_ref of T steps: as recorded where the reference made the data, else from log_probs/.

    Args:
        index: rows of `Dataset.trajectory_index`.
        policy_fingerprint: the reference's.
        name: the table to read; None for the recorded ones, or the first table that is the reference's.

    Raises:
        ConfigError: there are none of this reference, or not of every sample.
    """
    whose = f"was made by another model ({dataset.spec.model})"
    if name is None and dataset.spec.policy_fingerprint == policy_fingerprint:
        return {row["sample_id"]: row["log_probs"] for row in index}
    names = dataset.log_prob_names() if name is None else [name]
    made_by = dataset.spec.policy_fingerprint
    for table_name in names:
        table = dataset.log_probs(table_name)
        if policy_of(table) == policy_fingerprint:
            values = zip(table["sample_id"].to_pylist(), table["log_probs"].to_pylist(), strict=True)
            known = dict(values)
            if all(row["sample_id"] in known for row in index):
                return known
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
