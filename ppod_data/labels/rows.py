"""Rows of a label table: answers matched with samples, checked, and kept as numbers until they are written."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.format.tables import LABELS
from ppod_data.labels.answers import TIE, BadRowError, Comparison, Rating, Record
from ppod_data.labels.matching import SampleIndex
from ppod_data.labels.votes import Votes

_DIGITS = 16
_CACHED = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """Comparison of two samples, given as rows of the SampleIndex."""

    a: int
    b: int
    label: float
    votes: int
    """0 if unknown."""
    annotator: str | None
    """Hash of the annotator's name."""
    dimension: str
    record: int
    license: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Columns [L] of the rows from one batch of records of one file."""

    votes: Votes
    annotator: Any
    """Arrow strings."""
    dimension: Any
    """Arrow strings."""
    license: Any
    """Arrow strings."""
    record: NDArray[np.int64]
    file: str

    @classmethod
    def of(cls, rows: Sequence[Row], file: str) -> "Block":
        """Build the columns of some rows."""
        votes = Votes(
            a=np.array([row.a for row in rows], np.int32),
            b=np.array([row.b for row in rows], np.int32),
            label=np.array([row.label for row in rows], np.float64),
            votes=np.array([row.votes for row in rows], np.int32),
        )
        return cls(
            votes=votes,
            annotator=pa.array([row.annotator for row in rows], pa.string()),
            dimension=pa.array([row.dimension for row in rows], pa.string()),
            license=pa.array([row.license for row in rows], pa.string()),
            record=np.array([row.record for row in rows], np.int64),
            file=file,
        )

    def table(self, index: SampleIndex, source: str, license: str) -> Any:
        """Return the rows of labels/<name>.parquet; `license` applies to rows that name no license."""
        count = len(self.record)
        prompt = pa.array(index.prompt_of[self.votes.a])
        columns = {
            "prompt_id": index.prompt_ids.take(prompt),
            "prompt": index.prompts.take(prompt),
            "a_id": index.ids.take(pa.array(self.votes.a)),
            "b_id": index.ids.take(pa.array(self.votes.b)),
            "label": pa.array(self.votes.label),
            "votes": pa.array(self.votes.votes, mask=self.votes.votes == 0),
            "annotator": self.annotator,
            "dimension": self.dimension,
            "source": _repeat(source, count),
            "file": _repeat(self.file, count),
            "record": pa.array(self.record),
            "license": pc.fill_null(self.license, license),
        }
        return pa.table(columns, schema=LABELS)


def _repeat(text: str, count: int) -> Any:
    return pa.array([text], pa.string()).take(pa.array(np.zeros(count, np.int64)))


class Annotators:
    """Salted hashes of annotators' names.

    The same person has the same hash throughout a data set. Only the owner of the secret can link a hash to a name.
    """

    def __init__(self, salt: bytes, source: str) -> None:
        self._salt, self._source = salt, source
        self._known: dict[str, str] = {}

    def hash(self, name: str | None) -> str | None:
        """Return the hash of a name; None for None."""
        if name is None:
            return None
        if name not in self._known:
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._known[name] = self.sign(name)[:_DIGITS]
        return self._known[name]

    def sign(self, text: str) -> str:
        """Return the HMAC of a text, which only the owner of the secret can compute."""
        return hmac.new(self._salt, f"{self._source}\n{text}".encode(), hashlib.sha256).hexdigest()


def match_answer(
    answer: Comparison, record: Record, index: SampleIndex, folder: Path, people: Annotators
) -> Row:
    """Return the row of a comparison.

    Raises:
        BadRowError: images of two prompts, the same image twice, or an image that is not in the data set.
    """
    named = None if answer.prompt is None else index.find_prompt(answer.prompt)
    a, b = (index.find(image, folder, named) for image in (answer.a, answer.b))
    prompt = index.prompt_of[a]
    if a == b:
        raise BadRowError("an image compared with itself")
    if index.prompt_of[b] != prompt:
        raise BadRowError("images of two prompts")
    if answer.prompt is not None and named != prompt:
        raise BadRowError("the prompt differs from the prompt of the images")
    return Row(
        a=a,
        b=b,
        label=answer.label,
        votes=answer.votes or 0,
        annotator=people.hash(answer.annotator),
        dimension=answer.dimension,
        record=record.number,
        license=answer.license,
    )


def match_many(
    table: Any, index: SampleIndex, people: Annotators, file: str, first: int
) -> tuple[Block, Any]:
    """Match the valid rows of a format's `columns` in bulk; return their block and their row numbers in the batch."""
    a, b = (pc.index_in(table[side], value_set=index.ids) for side in ("a", "b"))
    a, b = (column.combine_chunks() if hasattr(column, "combine_chunks") else column for column in (a, b))
    a, b = (np.asarray(pc.fill_null(column, -1)).astype(np.int32) for column in (a, b))
    captions = table["prompt"].combine_chunks().dictionary_encode()
    numbers = [index.find_prompt(text) for text in captions.dictionary.to_pylist()]
    prompts = np.array([-1 if number is None else number for number in numbers] + [-1], np.int32)
    prompt = prompts[np.asarray(pc.fill_null(captions.indices, len(numbers)))]
    good = (a >= 0) & (b >= 0) & (a != b)
    good &= (index.prompt_of[a] == index.prompt_of[b]) & (index.prompt_of[a] == prompt)
    names = table["annotator"].combine_chunks().dictionary_encode()
    hashes = pa.array([people.hash(name) for name in names.dictionary.to_pylist()], pa.string())
    rows = np.asarray(table["row"])[good]
    count = len(rows)
    block = Block(
        votes=Votes(
            a=a[good],
            b=b[good],
            label=np.asarray(table["label"])[good],
            votes=np.ones(count, np.int32),
        ),
        annotator=hashes.take(names.indices.filter(pa.array(good))),
        dimension=_repeat("overall", count),
        license=pa.nulls(count, pa.string()),
        record=rows + first,
        file=file,
    )
    return block, rows


class Ratings:
    """Ratings of images, held until every group is complete; a few dozen bytes per image."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Any, ...], dict[int, tuple[float, int, str]]] = {}
        self.num_ratings = 0

    def add(
        self, answer: Rating, record: Record, index: SampleIndex, folder: Path, people: Annotators
    ) -> None:
        """Add a rating.

        Raises:
            BadRowError: an image that is not in the data set, another prompt, or a second rating in its group.
        """
        named = None if answer.prompt is None else index.find_prompt(answer.prompt)
        row = index.find(answer.image, folder, named)
        prompt = int(index.prompt_of[row])
        if answer.prompt is not None and named != prompt:
            raise BadRowError("the prompt differs from the prompt of the image")
        key = (answer.group, prompt, answer.dimension, people.hash(answer.annotator))
        group = self._groups.setdefault(key, {})
        if row in group:
            raise BadRowError("the image is rated twice in its group")
        group[row] = (answer.value, record.number, record.file)
        self.num_ratings += 1

    def rows(self) -> dict[str, list[Row]]:
        """Return the comparisons of every two images of a group, by the file of the first."""
        by_file: dict[str, list[Row]] = {}
        for (_, _, dimension, annotator), group in self._groups.items():
            for (a, (x, record, file)), (b, (y, _, _)) in combinations(sorted(group.items()), 2):
                label = TIE if x == y else float(x > y)
                row = Row(a, b, label, 1, annotator, dimension, record, None)
                by_file.setdefault(file, []).append(row)
        return by_file

    @property
    def num_alone(self) -> int:
        """Return the number of ratings without another image in their group to compare."""
        return sum(len(group) == 1 for group in self._groups.values())
