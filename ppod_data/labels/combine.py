"""Combination of pair tables: weighted, merged for equal images, smoothed, split by prompt.

Legend: P pairs of all tables.
"""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, NothingToLearnError
from ppod_data.format.pair_ids import key_samples, pair_key
from ppod_data.format.tables import PAIRS, check_name
from ppod_data.format.write_once import NewFile, publish_once, write_pieces
from ppod_data.labels.answers import TIE
from ppod_data.labels.matching import SampleIndex
from ppod_data.labels.stored import rows_of
from ppod_data.labels.votes import Merged, pair_tables
from ppod_data.storage.files import temporary_beside
from ppod_data.storage.real_folders import refuse_linked_folders


@dataclass(frozen=True, kw_only=True)
class Source:
    """A table of pairs with its weight, which applies if another table judges the same images."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class CombineSummary:
    """Result of `combine`.

    num_rows = num_pairs + num_merged + num_same_images + num_undecided + num_dropped.
    """

    num_rows: int
    num_pairs: int
    """Pairs written, in all tables."""
    num_merged: int
    """Rows merged into another row with the same sample ids or the same pixels."""
    num_same_images: int
    """Rows whose two images have the same pixels, and therefore no preference."""
    num_undecided: int
    """Pairs with a combined label of 0.5, and therefore no preference."""
    num_contradictory: int
    """Pairs with rows for each image."""
    num_dropped: int
    """Contradictory pairs left out because of `drop_contradictory`."""
    tables: dict[str, int]
    """Number of pairs in each written table."""


def combine(
    dataset: Dataset,
    sources: Sequence[Source],
    *,
    name: str,
    label_smoothing: float = 0.0,
    drop_contradictory: bool = False,
    validation_share: float | None = None,
    seed: int = 0,
) -> CombineSummary:
    """Write `pairs/<name>` from other tables of pairs of `dataset`.

    The label of a pair is the mean over the rows that judge its images, weighted by the tables' weights. Samples of
    one prompt with the same pixels are one image.

    Args:
        label_smoothing: s changes a label p to (1 - s) p + s / 2.
        drop_contradictory: leave out pairs with rows for each image, instead of keeping their mean.
        validation_share: write `pairs/<name>-train` and `pairs/<name>-validation` instead, with about this share of
            the prompts in the second; all pairs of a prompt are in the same table.
        seed: seed of the split.

    Raises:
        ConfigError: an option out of range, an unknown table, or an existing table of this name with other content.
        NothingToLearnError: no pair is left, or none for one of the two tables.
    """
    _check(sources, label_smoothing, validation_share)
    check_name(name, "a table of pairs")
    index = SampleIndex.read(dataset)
    rows = _Rows.read(dataset, sources, index)
    merged, counts = _merge(rows, _same_pixels(dataset, index), drop_contradictory)
    smoothed = (1 - label_smoothing) * merged.label + label_smoothing / 2
    parts = {name: np.ones(len(smoothed), bool)}
    if validation_share is not None:
        held = _held_out(index.prompt_ids.to_pylist(), index.prompt_of[merged.chosen], validation_share, seed)
        parts = {f"{name}-train": ~held, f"{name}-validation": held}
    for table, here in parts.items():
        if not here.any():
            raise NothingToLearnError(f"no pair for pairs/{table}: combine more tables, or drop the split")
    summary = CombineSummary(tables={table: int(here.sum()) for table, here in parts.items()}, **counts)
    made: dict[str, Any] = {
        "combined": {one.name: one.weight for one in sources},
        "fingerprint": dataset.spec.fingerprint,
        "label_smoothing": label_smoothing,
        "drop_contradictory": drop_contradictory,
        "counts": asdict(summary),
    }
    if validation_share is not None:
        made |= {"validation_share": validation_share, "seed": seed}
    refuse_linked_folders(dataset.root)
    with ExitStack() as stack:
        wanted = []
        for table, here in parts.items():
            path = dataset.root / "pairs" / f"{table}.parquet"
            temporary = stack.enter_context(temporary_beside(path))
            part = _take(merged, smoothed, here)
            write_pieces(temporary, PAIRS, pair_tables(part, index, f"combine:{name}"), made)
            wanted.append(NewFile(temporary, path, PAIRS))
        publish_once(wanted)
    return summary


def _check(sources: Sequence[Source], smoothing: float, share: float | None) -> None:
    names = [one.name for one in sources]
    if not names:
        raise ConfigError("no tables to combine: name them with --pairs NAME")
    if len(set(names)) != len(names):
        raise ConfigError("a table is named twice: give it a weight instead, as NAME=2")
    for one in sources:
        if not (np.isfinite(one.weight) and one.weight > 0):
            raise ConfigError(f"the weight of {one.name} is {one.weight}: it must be a positive number")
    if not 0 <= smoothing < 1:
        raise ConfigError(f"label_smoothing is {smoothing}: it must be from 0 to below 1")
    if share is not None and not 0 < share < 1:
        raise ConfigError(f"validation_share is {share}: it must be between 0 and 1")


@dataclass(frozen=True, eq=False)
class _Rows:
    """Pairs of all tables [P], with samples as rows of the index."""

    chosen: NDArray[np.int64]
    rejected: NDArray[np.int64]
    label: NDArray[np.float64]
    votes: NDArray[np.int64]
    """0 if unknown."""
    weight: NDArray[np.float64]

    @classmethod
    def read(cls, dataset: Dataset, sources: Sequence[Source], index: SampleIndex) -> "_Rows":
        """Read the pairs of all tables."""
        tables = [dataset.pairs(one.name) for one in sources]

        def column(name: str) -> NDArray[Any]:
            return np.concatenate([np.asarray(table[name].fill_null(0)) for table in tables])

        def samples(name: str) -> NDArray[np.int64]:
            found = [
                rows_of(table[name], index, f"pairs/{one.name}")
                for one, table in zip(sources, tables, strict=True)
            ]
            return np.concatenate(found).astype(np.int64)

        weights = [np.full(len(table), one.weight) for one, table in zip(sources, tables, strict=True)]
        return cls(
            samples("chosen_id"),
            samples("rejected_id"),
            column("label").astype(np.float64),
            column("votes").astype(np.int64),
            np.concatenate(weights),
        )


def _same_pixels(dataset: Dataset, index: SampleIndex) -> NDArray[np.int64]:
    """Return for each sample the first sample of its prompt with the same pixels."""
    pixels = dataset.samples(["image_pixels_sha256"])["image_pixels_sha256"].to_pylist()
    first: dict[tuple[int, str], int] = {}
    keys = zip(index.prompt_of.tolist(), pixels, strict=True)
    return np.array([first.setdefault(key, row) for row, key in enumerate(keys)], np.int64)


def _merge(rows: _Rows, same: NDArray[np.int64], drop: bool) -> tuple[Merged, dict[str, int]]:
    a, b = same[rows.chosen], same[rows.rejected]
    real = a != b
    a, b, label, votes, weight = (x[real] for x in (a, b, rows.label, rows.votes, rows.weight))
    keys, pair = np.unique(pair_key(a, b), return_inverse=True)
    count = len(keys)
    prefers_low = np.where(a < b, label, 1 - label)
    mean = np.bincount(pair, weight * prefers_low, count) / np.bincount(pair, weight, count)
    single = np.bincount(pair, minlength=count) == 1
    mean[single] = np.bincount(pair, prefers_low, count)[single]  # w p / w may round
    either = [np.bincount(pair, side, count) > 0 for side in (prefers_low > TIE, prefers_low < TIE)]
    contradictory = either[0] & either[1]
    dropped = contradictory if drop else np.zeros(count, bool)
    undecided = (mean == TIE) & ~dropped
    kept = ~dropped & ~undecided
    (low, high), wins = key_samples(keys), mean > TIE
    lost = np.bincount(pair, minlength=count) - 1
    merged = Merged(
        chosen=np.where(wins, low, high)[kept],
        rejected=np.where(wins, high, low)[kept],
        label=np.where(wins, mean, 1 - mean)[kept],
        votes=np.bincount(pair, votes, count).astype(np.int64)[kept],
        num_tied_labels=int((label == TIE).sum()),
        num_undecided=int(undecided.sum()),
        num_contradictory=int(contradictory.sum()),
    )
    counts = {
        "num_rows": len(real),
        "num_pairs": int(kept.sum()),
        "num_merged": int(lost.sum()),
        "num_same_images": int((~real).sum()),
        "num_undecided": int(undecided.sum()),
        "num_contradictory": int(contradictory.sum()),
        "num_dropped": int(dropped.sum()),
    }
    return merged, counts


def _held_out(
    prompt_ids: Sequence[str], prompt: NDArray[np.int32], share: float, seed: int
) -> NDArray[np.bool_]:
    """Mark pairs whose prompt is for validation: the prompts with the smallest hashes of (seed, prompt_id)."""
    used = np.unique(prompt).tolist()
    ranked = sorted(used, key=lambda row: hashlib.sha256(f"{seed} {prompt_ids[row]}".encode()).digest())
    number = min(max(round(share * len(used)), 1), len(used) - 1) if len(used) > 1 else 0
    held: NDArray[np.bool_] = np.isin(prompt, np.array(ranked[:number], np.int64))
    return held


def _take(merged: Merged, label: NDArray[np.float64], here: NDArray[np.bool_]) -> Merged:
    return Merged(
        chosen=merged.chosen[here],
        rejected=merged.rejected[here],
        label=label[here],
        votes=merged.votes[here],
        num_tied_labels=merged.num_tied_labels,
        num_undecided=merged.num_undecided,
        num_contradictory=merged.num_contradictory,
    )
