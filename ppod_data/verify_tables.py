"""Checks of the tables that are made from samples: do they belong to these samples, and make sense in themselves?

A problem is (sample_id or None, what is wrong).
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.files import DataPath
from ppod_data.pair_ids import PAIR_ID
from ppod_data.sample_numbers import SampleNumbers
from ppod_data.spec import GenerationSpec
from ppod_data.tables import LABELS, LOG_PROBS, PAIRS, SCORES, iter_table, read_table

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


class PromptOf:
    """The prompt of every sample that is here, without a Python object a sample."""

    def __init__(self, spec: GenerationSpec, here: NDArray[np.bool_]) -> None:
        """here: for each sample of the spec whether it is here."""
        self._samples = SampleNumbers.of(spec)
        self._prompt_ids = pa.array(spec.prompt_ids, pa.string())
        self._prompts = np.fromiter((prompt for prompt, _ in spec.places()), np.int64, spec.num_samples)
        self._prompts[~here] = -1

    def numbers(self, ids: Any) -> NDArray[np.int64]:
        """The number of each sample's prompt, -1 where the sample is not here; `ids` is an Arrow column."""
        found = self._samples.find(ids)
        return np.where(found < 0, -1, self._prompts[found])

    def prompt_numbers(self, prompt_ids: Any) -> NDArray[np.int64]:
        """The number of each prompt, -2 where there is none of this id; `prompt_ids` is an Arrow column."""
        found: NDArray[np.int64] = (
            pc.index_in(prompt_ids, value_set=self._prompt_ids).fill_null(-2).to_numpy()
        )
        return found

    def of(self, ids: Sequence[str]) -> dict[str, str]:
        """The prompt_id of each of these samples that is here."""
        prompts = zip(ids, self.numbers(pa.array(ids, pa.string())).tolist(), strict=True)
        return {name: self._prompt_ids[prompt].as_py() for name, prompt in prompts if prompt >= 0}


def check_pairs(path: DataPath, prompts: PromptOf) -> Iterator[Problem]:
    """Problems of a table of pairs.

    Raises:
        DamagedError: a table that cannot be read.
    """
    for table in iter_table(path, PAIRS, ["pair_id", "prompt_id", "chosen_id", "rejected_id", "label"]):
        for pair_id in table["pair_id"].to_pylist():
            if pair_id is None or not PAIR_ID.fullmatch(pair_id):
                yield None, f"the pair_id {pair_id!r} is none that ppod gives"
        for row in _doubtful(table, "chosen_id", "rejected_id", prompts):
            one = table.slice(row, 1).to_pylist()[0]
            yield from _two_problems(
                f"pair {one['pair_id']}", one["chosen_id"], one["rejected_id"], one, prompts
            )


def check_labels(path: DataPath, prompts: PromptOf) -> Iterator[Problem]:
    """Problems of a table of labels.

    Raises:
        DamagedError: a table that cannot be read.
    """
    before = 0
    for table in iter_table(path, LABELS, ["prompt_id", "a_id", "b_id", "label"]):
        for row in _doubtful(table, "a_id", "b_id", prompts):
            one = table.slice(row, 1).to_pylist()[0]
            yield from _two_problems(f"label {before + row + 1}", one["a_id"], one["b_id"], one, prompts)
        before += len(table)


def _doubtful(table: Any, first: str, second: str, prompts: PromptOf) -> list[int]:
    """The rows about two samples that are not plainly right."""
    one, other = prompts.numbers(table[first]), prompts.numbers(table[second])
    label = table["label"].fill_null(math.nan).to_numpy()
    differ = pc.not_equal(table[first], table[second]).fill_null(False).to_numpy()
    right = (one >= 0) & (one == other) & (one == prompts.prompt_numbers(table["prompt_id"]))
    rows: list[int] = np.flatnonzero(~(right & differ & (label >= 0) & (label <= 1))).tolist()
    return rows


def _two_problems(
    what: str, first: str, second: str, row: Mapping[str, Any], prompts: PromptOf
) -> Iterator[Problem]:
    """Problems of a row about two samples."""
    known = prompts.of([first, second])
    absent = [name for name in (first, second) if name not in known]
    if absent:
        yield absent[0], f"{what} names a sample that is not here"
    elif first == second:
        yield first, f"{what} is a sample with itself"
    elif {known[first], known[second]} != {row["prompt_id"]}:
        yield first, f"{what} is not of two samples of its prompt"
    if row["label"] is None or not 0 <= row["label"] <= 1:
        yield first, f"{what} has the label {row['label']}"
