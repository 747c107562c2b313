"""Checks of the tables that are made from samples: do they belong to these samples, and make sense in themselves?

A problem is (sample_id or None, what is wrong).
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ppod_data.files import DataPath
from ppod_data.tables import LABELS, LOG_PROBS, PAIRS, SCORES, read_table

Problem = tuple[str | None, str]


def check_part(
    path: DataPath, kind: str, pixels: Mapping[str, str], excluded: Mapping[str, str], num_steps: int
) -> Iterator[Problem]:
    """Problems of one part of a table of `kind` "scores" or "log_probs".

    Args:
        pixels: image_pixels_sha256 of each sample of the shard, in its order; empty where they are not known.
        excluded: samples that may be absent.

    Raises:
        DamagedError: a part that cannot be read.
    """
    table = read_table(path, SCORES if kind == "scores" else LOG_PROBS)
    rows = table.to_pylist()
    ids = [row["sample_id"] for row in rows]
    there = set(ids)
    expected = [name for name in pixels if name in there or name not in excluded]
    if pixels and [name for name in ids if name in pixels or name not in excluded] != expected:
        yield None, "its samples are not those of the shard, in its order"
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
        made_by = json.loads((table.schema.metadata or {}).get(b"ppod", b"{}"))
        named = isinstance(made_by.get("policy_fingerprint"), str)
    except (ValueError, AttributeError, RecursionError):
        named = False
    if not named:
        yield None, "does not say which policy's log-probabilities these are"
    for row in rows:
        values = row["log_probs"] or []
        if len(values) != num_steps:
            yield row["sample_id"], f"{len(values)} log-probabilities, not {num_steps}"
        elif not all(value is None or math.isfinite(value) for value in values):
            yield row["sample_id"], "a log-probability is NaN or infinite"


def check_pairs(path: DataPath, prompts: Mapping[str, str]) -> Iterator[Problem]:
    """Problems of a table of pairs; `prompts` has the prompt_id of every sample.

    Raises:
        DamagedError: a table that cannot be read.
    """
    for row in read_table(path, PAIRS).to_pylist():
        yield from _two_problems(f"pair {row['pair_id']}", row["chosen_id"], row["rejected_id"], row, prompts)


def check_labels(path: DataPath, prompts: Mapping[str, str]) -> Iterator[Problem]:
    """Problems of a table of labels; `prompts` has the prompt_id of every sample.

    Raises:
        DamagedError: a table that cannot be read.
    """
    columns = ["prompt_id", "a_id", "b_id", "label"]
    for number, row in enumerate(read_table(path, LABELS, columns).to_pylist(), start=1):
        yield from _two_problems(f"label {number}", row["a_id"], row["b_id"], row, prompts)


def _two_problems(
    what: str, first: str, second: str, row: Mapping[str, Any], prompts: Mapping[str, str]
) -> Iterator[Problem]:
    """Problems of a row about two samples."""
    absent = [name for name in (first, second) if name not in prompts]
    if absent:
        yield absent[0], f"{what} names a sample that is not here"
    elif first == second:
        yield first, f"{what} is a sample with itself"
    elif {prompts[first], prompts[second]} != {row["prompt_id"]}:
        yield first, f"{what} is not of two samples of its prompt"
    if row["label"] is None or not 0 <= row["label"] <= 1:
        yield first, f"{what} has the label {row['label']}"
