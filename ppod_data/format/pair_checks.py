"""What makes a row about two samples usable: one function for `ppod-data verify` and for training.

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
"""What the checks of a table of pairs read."""

Problem = tuple[str | None, str]
"""(sample_id or None, what is wrong)."""


class PromptOf:
    """The prompt of every sample that is here, without a Python object a sample."""

    def __init__(
        self, spec: GenerationSpec, here: NDArray[np.bool_], samples: SampleNumbers | None = None
    ) -> None:
        """here: for each sample of the spec whether it is here; samples: the numbers of all, where they are known."""
        self.spec = spec
        self.samples = SampleNumbers.of(spec) if samples is None else samples
        self._prompt_ids = pa.array(spec.prompt_ids, pa.string())
        self._prompts = np.fromiter((prompt for prompt, _ in spec.places()), np.int64, spec.num_samples)
        self._prompts[~here] = -1

    def sample_id(self, number: int) -> str:
        """The id of a sample by its number."""
        prompt, k = self.spec.place(number)
        return self.spec.sample_id(self.spec.prompt_ids[prompt], k)

    def numbers(self, ids: Any) -> NDArray[np.int64]:
        """The number of each sample's prompt, -1 where the sample is not here; `ids` is an Arrow column."""
        found = self.samples.find(ids)
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


def pair_problems(table: Any, prompts: PromptOf) -> Iterator[Problem]:
    """Yield what is wrong with single rows of a table of pairs, or of some rows of one, in PAIR_COLUMNS."""
    for row in doubtful_rows(table, "chosen_id", "rejected_id", prompts):
        one = table.slice(row, 1).to_pylist()[0]
        yield from two_problems(f"pair {one['pair_id']}", one["chosen_id"], one["rejected_id"], one, prompts)
    margins = table["margin"].fill_null(0.0).to_numpy()
    for row in np.flatnonzero(~np.isfinite(margins)).tolist():
        one = table.slice(row, 1).to_pylist()[0]
        yield one["chosen_id"], f"pair {one['pair_id']} has the margin {one['margin']}"


def pair_keys(table: Any, prompts: PromptOf) -> NDArray[np.int64]:
    """Return a number for each pair of two samples [P], the same in both directions; none for samples not known."""
    chosen, rejected = (prompts.samples.find(table[name]) for name in ("chosen_id", "rejected_id"))
    keys = pair_key(chosen, rejected)
    known: NDArray[np.int64] = keys[(chosen >= 0) & (rejected >= 0) & (chosen != rejected)]
    return known


def repeated_pair(keys: Sequence[NDArray[np.int64]], prompts: PromptOf) -> Problem | None:
    """Say which two samples are compared more than once, in one direction or in both; None where no two are.

    `keys` are those of `pair_keys` for all pieces of a table.
    """
    every = np.concatenate([np.empty(0, np.int64), *keys])
    every.sort()
    again = np.flatnonzero(every[1:] == every[:-1])
    if not len(again):
        return None
    first, second = (prompts.sample_id(int(number)) for number in key_samples(every[again[0]]))
    return (
        first,
        f"{len(again):,} pairs repeat another one, in its direction or the other: {first} and {second} first",
    )


def doubtful_rows(table: Any, first: str, second: str, prompts: PromptOf) -> list[int]:
    """The rows about two samples that are not plainly right."""
    one, other = prompts.numbers(table[first]), prompts.numbers(table[second])
    label = table["label"].fill_null(math.nan).to_numpy()
    differ = pc.not_equal(table[first], table[second]).fill_null(False).to_numpy()
    right = (one >= 0) & (one == other) & (one == prompts.prompt_numbers(table["prompt_id"]))
    rows: list[int] = np.flatnonzero(~(right & differ & (label >= 0) & (label <= 1))).tolist()
    return rows


def two_problems(
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
