"""Export of pairs in the formats of other tools: a file or a folder that their own loaders read.

Pairs are written in order and images are read a shard at a time, so memory does not grow with the number of pairs.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.format.pair_ids import PAIR_ID
from ppod_data.labels.answers import TIE
from ppod_data.labels.export.formats import EXPORTS, FOLDERS, HARD, ROWS, Images, Pair
from ppod_data.storage.files import atomic_output, publish, sync
from ppod_data.storage.real_folders import make_folder, settled
from ppod_data.support.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """Result of an export."""

    num_pairs: int
    num_images: int
    num_hardened: int
    """Soft labels that the format cannot represent, written as 1."""


def export_pairs(
    dataset: Dataset,
    *,
    name: str,
    format: str,
    out: Path,
    progress: Progress = SILENT,
) -> ExportSummary:
    """Write `pairs/<name>` to `out` in a format of EXPORTS; `out` is written atomically.

    Raises:
        ConfigError: an unknown format or table, an existing `out`, or images that are missing.
    """
    out = settled(out)
    if format not in EXPORTS:
        raise ConfigError(f"format {format!r} is unknown: choose one of {', '.join(EXPORTS)}")
    table = dataset.pairs(name)
    if out.exists():
        raise ConfigError(f"{out} exists: give another --out, or remove it")
    _check_ids(table, f"{dataset.root}/pairs/{name}.parquet")
    images = Images(dataset)
    for column in ("chosen_id", "rejected_id"):
        for sample_id in table[column].to_pylist():
            images.check(sample_id)

    def pairs() -> Iterator[Pair]:
        prompts = dict(zip(dataset.spec.prompt_ids, dataset.spec.prompts, strict=True))
        progress.start(table.num_rows, "pairs")
        columns = ["pair_id", "prompt_id", "chosen_id", "rejected_id", "label", "votes", "source"]
        for batch in table.select(columns).to_batches(ROWS):
            for row in batch.to_pylist():
                yield Pair(prompt=prompts[row["prompt_id"]], **row)
            progress.advance(batch.num_rows)

    with _output(out, folder=format in FOLDERS) as temporary:
        EXPORTS[format](dataset, pairs(), images, temporary)
    soft = sum(label not in (TIE, 1.0) for label in table["label"].to_pylist()) if format in HARD else 0
    seen = {*table["chosen_id"].to_pylist(), *table["rejected_id"].to_pylist()}
    return ExportSummary(num_pairs=table.num_rows, num_images=len(seen), num_hardened=soft)


def _check_ids(table: Any, path: str) -> None:
    """Raise DamagedError for an invalid pair_id, because it becomes a file name in a tar."""
    for pair_id in table["pair_id"].to_pylist():
        if pair_id is None or not PAIR_ID.fullmatch(pair_id):
            raise DamagedError(f"{path}: the pair_id {pair_id!r} is not valid: copy this table again")


@contextmanager
def _output(out: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a temporary file or folder, which becomes `out` at the end of the block."""
    if not folder:
        with atomic_output(out) as file:
            yield file
        return
    make_folder(out.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.tmp-", dir=out.parent))
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            sync(path)
        temporary.chmod(0o755)
        publish(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
