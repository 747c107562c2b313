"""Checks of rows about two samples, shared by `ppod-data verify` and training.

Shapes: P pairs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.format.pair_ids import key_samples, pair_key
from ppod_data.format.sample_index import SampleNumbers
from ppod_data.format.spec import GenerationSpec

PAIR_COLUMNS = ("pair_id", "prompt_id", "chosen_id", "rejected_id", "label", "margin")
"""The columns that the checks of a table of pairs read."""

Problem = tuple[str | None, str]
"""(sample_id or None, description of the problem)."""


class PromptOf:
    """A map from each present sample to its prompt, in arrays instead of a Python object a sample."""

    def __init__(
        self, spec: GenerationSpec, here: NDArray[np.bool_], samples: SampleNumbers | None = None
    ) -> None:
        """Index the samples of a spec.

        Args:
            spec: the generation spec.
            here: a flag for each sample of the spec: the sample is present.
            samples: the numbers of all samples; computed if None.
        """
        self.spec = spec
        self.samples = SampleNumbers.of(spec) if samples is None else samples
        self._prompt_ids = pa.array(spec.prompt_ids, pa.string())
        self._prompts = np.fromiter((prompt for prompt, _ in spec.places()), np.int64, spec.num_samples)
        self._prompts[~here] = -1

    def sample_id(self, number: int) -> str:
        """Return the id of a sample, given its number."""
        prompt, k = self.spec.place(number)
        return self.spec.sample_id(self.spec.prompt_ids[prompt], k)

    def numbers(self, ids: Any) -> NDArray[np.int64]:
        """Return the number of each sample's prompt, -1 for an absent sample; `ids` is an Arrow column."""
        rows = self.samples.find(ids)
        return np.where(rows < 0, -1, self._prompts[rows])

    def prompt_numbers(self, prompt_ids: Any) -> NDArray[np.int64]:
        """Return the number of each prompt, -2 for an unknown id; `prompt_ids` is an Arrow column."""
        numbers: NDArray[np.int64] = (
            pc.index_in(prompt_ids, value_set=self._prompt_ids).fill_null(-2).to_numpy()
        )
        return numbers

    def of(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the prompt_id of each of these samples that is present."""
        prompts = zip(ids, self.numbers(pa.array(ids, pa.string())).tolist(), strict=True)
        return {name: self._prompt_ids[prompt].as_py() for name, prompt in prompts if prompt >= 0}


def pair_problems(table: Any, prompts: PromptOf) -> Iterator[Problem]:
    """Yield the problems of single rows of a table of pairs, or a slice of one, with PAIR_COLUMNS."""
    for row in doubtful_rows(table, "chosen_id", "rejected_id", prompts):
        pair = table.slice(row, 1).to_pylist()[0]
        yield from two_problems(
            f"pair {pair['pair_id']}", pair["chosen_id"], pair["rejected_id"], pair, prompts
        )
    margins = table["margin"].fill_null(0.0).to_numpy()
    for row in np.flatnonzero(~np.isfinite(margins)).tolist():
        pair = table.slice(row, 1).to_pylist()[0]
        yield pair["chosen_id"], f"pair {pair['pair_id']} has the margin {pair['margin']}"


def pair_keys(table: Any, prompts: PromptOf) -> NDArray[np.int64]:
    """Return an integer key for each pair [P], the same in both directions. Pairs of unknown samples are left out."""
    chosen, rejected = (prompts.samples.find(table[name]) for name in ("chosen_id", "rejected_id"))
    keys = pair_key(chosen, rejected)
    valid: NDArray[np.int64] = keys[(chosen >= 0) & (rejected >= 0) & (chosen != rejected)]
    return valid


def repeated_pair(keys: Sequence[NDArray[np.int64]], prompts: PromptOf) -> Problem | None:
    """Return a problem that names the first two samples compared more than once, in either direction, or None.

    Args:
        keys: the results of `pair_keys` for all pieces of a table.
        prompts: the samples.
    """
    all_keys = np.concatenate([np.empty(0, np.int64), *keys])
    all_keys.sort()
    repeats = np.flatnonzero(all_keys[1:] == all_keys[:-1])
    if not len(repeats):
        return None
    first, second = (prompts.sample_id(int(number)) for number in key_samples(all_keys[repeats[0]]))
    return (
        first,
        f"{len(repeats):,} pairs repeat another pair, in either direction: {first} and {second} first",
    )


def doubtful_rows(table: Any, first: str, second: str, prompts: PromptOf) -> list[int]:
    """Return the rows that need a closer check."""
    prompt, other_prompt = prompts.numbers(table[first]), prompts.numbers(table[second])
    label = table["label"].fill_null(math.nan).to_numpy()
    differ = pc.not_equal(table[first], table[second]).fill_null(False).to_numpy()
    right = (prompt >= 0) & (prompt == other_prompt) & (prompt == prompts.prompt_numbers(table["prompt_id"]))
    rows: list[int] = np.flatnonzero(~(right & differ & (label >= 0) & (label <= 1))).tolist()
    return rows


def two_problems(
    what: str, first: str, second: str, row: Mapping[str, Any], prompts: PromptOf
) -> Iterator[Problem]:
    """Yield the problems of a row about two samples. `what` names the row in messages."""
    present = prompts.of([first, second])
    absent = [name for name in (first, second) if name not in present]
    if absent:
        yield absent[0], f"{what} names a sample that is missing"
    elif first == second:
        yield first, f"{what} compares a sample with itself"
    elif {present[first], present[second]} != {row["prompt_id"]}:
        yield first, f"{what}: the two samples are not both of its prompt"
    if row["label"] is None or not 0 <= row["label"] <= 1:
        yield first, f"{what} has the label {row['label']}"
