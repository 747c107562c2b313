"""Checks of the tables derived from samples: they must belong to these samples and be consistent.

A problem is (sample_id or None, description).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.errors import DamagedError
from ppod_data.format.pair_checks import (
    PAIR_COLUMNS,
    Problem,
    PromptOf,
    doubtful_rows,
    pair_keys,
    pair_problems,
    repeated_pair,
    two_problems,
)
from ppod_data.format.pair_ids import PAIR_ID
from ppod_data.format.provenance import provenance_of
from ppod_data.format.tables import LABELS, LOG_PROBS, PAIRS, SCORES, iter_table, read_table
from ppod_data.storage.files import DataPath


def check_part(
    path: DataPath, kind: str, pixels: Mapping[str, str], excluded: Mapping[str, str], num_steps: int
) -> Iterator[Problem]:
    """Yield the problems of one part of a table of `kind` "scores" or "log_probs".

    Args:
        path: the part.
        kind: "scores" or "log_probs".
        pixels: image_pixels_sha256 of each sample of the shard in order; empty if unknown.
        excluded: samples that may be absent.
        num_steps: steps of the chain.

    Raises:
        DamagedError: the part cannot be read.
    """
    table = read_table(path, SCORES if kind == "scores" else LOG_PROBS)
    rows = table.to_pylist()
    ids = [row["sample_id"] for row in rows]
    present = set(ids)
    expected = [name for name in pixels if name in present or name not in excluded]
    if pixels and [name for name in ids if name in pixels or name not in excluded] != expected:
        yield None, "its samples are not those of the shard in order"
        return
    if kind == "scores":
        yield from _score_problems(rows, pixels)
    else:
        yield from _log_prob_problems(table, rows, num_steps)


def _score_problems(rows: list[dict[str, Any]], pixels: Mapping[str, str]) -> Iterator[Problem]:
    if len({(row["scorer"], row["revision"]) for row in rows}) > 1:
        yield None, "mixes scorers or revisions"
    for row in rows:
        name, score = row["sample_id"], row["score"]
        if name in pixels and row["image_pixels_sha256"] != pixels[name]:
            yield name, "the score is of another image"
        if (row["status"] == "ok") != (score is not None) or (score is not None and not math.isfinite(score)):
            yield name, f"score {score} with status {row['status']!r}"


def _log_prob_problems(table: Any, rows: list[dict[str, Any]], num_steps: int) -> Iterator[Problem]:
    try:
        named = isinstance(provenance_of(table.schema.metadata, "").get("policy_fingerprint"), str)
    except DamagedError:
        named = False
    if not named:
        yield None, "does not name the policy of these log-probabilities"
    for row in rows:
        values = row["log_probs"] or []
        if len(values) != num_steps:
            yield row["sample_id"], f"{len(values)} log-probabilities, not {num_steps}"
        elif not all(value is None or math.isfinite(value) for value in values):
            yield row["sample_id"], "a log-probability is NaN or infinite"


def check_pairs(path: DataPath, prompts: PromptOf) -> Iterator[Problem]:
    """Yield the problems of a table of pairs.

    Raises:
        DamagedError: the table cannot be read.
    """
    keys: list[NDArray[np.int64]] = []
    for table in iter_table(path, PAIRS, PAIR_COLUMNS):
        named = pc.match_substring_regex(table["pair_id"], f"^{PAIR_ID.pattern}$").fill_null(False)
        for row in np.flatnonzero(~named.to_numpy()).tolist():
            yield None, f"the pair_id {table['pair_id'][row].as_py()!r} is not a valid id"
        yield from pair_problems(table, prompts)
        keys.append(pair_keys(table, prompts))
    if problem := repeated_pair(keys, prompts):
        yield problem


def check_labels(path: DataPath, prompts: PromptOf) -> Iterator[Problem]:
    """Yield the problems of a table of labels.

    Raises:
        DamagedError: the table cannot be read.
    """
    before = 0
    for table in iter_table(path, LABELS, ["prompt_id", "a_id", "b_id", "label"]):
        for row in doubtful_rows(table, "a_id", "b_id", prompts):
            values = table.slice(row, 1).to_pylist()[0]
            yield from two_problems(
                f"label {before + row + 1}", values["a_id"], values["b_id"], values, prompts
            )
        before += len(table)
