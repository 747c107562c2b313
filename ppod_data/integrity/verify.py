"""Verification of a data set: completeness, consistency, and every byte.

    report = verify(root, read_data=1.0)

There are two levels, as in backup tools. The structure covers every table without its images, every size, id
and reference. With `read_data`, every byte of all or some shards is read too. To replay steps with the model,
see ppod_data.integrity.replay.
"""

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppod_data.dataset.exclusions import EXCLUSIONS, excluded_samples, foreign_entries, read_exclusions
from ppod_data.errors import DamagedError
from ppod_data.format.manifest import MANIFEST, read_manifest
from ppod_data.format.pair_checks import PromptOf
from ppod_data.format.shards import PURGING, SUMS, TRAJ_FILE, committed_shards, parts_in
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.sums import FILE_FOLDERS, TABLE_FOLDERS, file_seal, file_tables, read_sums
from ppod_data.format.tables import (
    CHECKED_SAMPLES,
    SAMPLES,
    is_name,
    is_table,
    part_name,
    read_table,
    shard_of,
)
from ppod_data.integrity.check_bytes import read_sealed, read_shard
from ppod_data.integrity.check_tables import check_labels, check_pairs, check_part
from ppod_data.integrity.replay import Replay
from ppod_data.integrity.seal import BASE_FOLDERS, table_folders
from ppod_data.storage.files import DataPath, in_folder, name_below
from ppod_data.storage.real_folders import links_below
from ppod_data.support.progress import SILENT, Progress

DAMAGED, INCOMPLETE, LEFTOVER = "damaged", "incomplete", "leftover"
_STRUCTURE = [name for name in SAMPLES.names if name != "image"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem of a data set."""

    kind: str
    """"damaged", "incomplete" (to be generated or finished) or "leftover" (of a stopped process; readers ignore it)."""
    file: str
    """The file's relative name."""
    sample_id: str | None
    problem: str


@dataclass(kw_only=True)
class Report:
    """The scope and findings of `verify`."""

    findings: list[Finding] = field(default_factory=list)
    num_samples: int = 0
    num_shards: int = 0
    num_shards_read: int = 0
    """Shards of which every byte was read."""
    sealed: bool = False
    tables: list[str] = field(default_factory=list)
    """The checked tables: `scores/<name>`, `log_probs/<name>`, `pairs/<name>`."""
    replay: Replay | None = None
    """The result of `ppod_data.integrity.replay`, if a model was given."""

    def add(self, kind: str, file: str, problem: object, sample_id: str | None = None) -> None:
        """Add a finding, its problem on one line."""
        text = " ".join(str(problem).split())
        self.findings.append(Finding(kind=kind, file=file, sample_id=sample_id, problem=text))

    def of(self, kind: str) -> list[Finding]:
        """Return the findings of a kind."""
        return [finding for finding in self.findings if finding.kind == kind]


def verify(
    root: DataPath,
    *,
    read_data: float = 0.0,
    chooser: random.Random | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Check the data set in `root` without writing.

    Args:
        root: the data set.
        read_data: the share of shards of which every byte is read: 0 for the structure alone, 1 for all, which
            also checks the seals. Above 0, at least one shard is read.
        chooser: chooses those shards if not all; by default a new random choice on every call.
        progress: counts shards.

    Raises:
        ConfigError: there is no data set, or one of a newer format.
        OSError: the system does not let this process read a file, which may be intact.
    """
    report = Report()
    try:
        spec, _ = read_manifest(root)
    except DamagedError as error:
        report.add(DAMAGED, MANIFEST, _plain(root, error))
        return report
    try:
        entries = read_exclusions(root)
        excluded = excluded_samples(spec, entries)
        if foreign := foreign_entries(spec, entries):
            problem = f"{len(foreign)} entries are of another data set, {foreign[0].id} first"
            report.add(DAMAGED, EXCLUSIONS, problem)
    except DamagedError as error:
        report.add(DAMAGED, EXCLUSIONS, _plain(root, error))
        excluded = {}
    shards = _shards(root, spec, report)
    chosen = _choose(shards, read_data, chooser or random.SystemRandom())
    progress.start(len(shards), "shards")
    here = np.zeros(spec.num_samples, bool)
    pixels: dict[int, Any] = {}
    named: set[str] = set()
    digests: dict[DataPath, str] = {}
    for shard in shards:
        rows = _check_shard(root, spec, shard, excluded, report)
        numbers = spec.shard_range(shard)
        present = {row["sample_id"] for row in rows}
        here[numbers.start : numbers.stop] = len(present) == len(numbers) or [
            name in present for name in spec.shard_sample_ids(shard)
        ]
        pixels[shard] = pa.array([row["image_pixels_sha256"] for row in rows], pa.string())
        named |= {row["traj_file"] for row in rows if isinstance(row["traj_file"], str)}
        if shard in chosen and rows:
            report.num_shards_read += 1
            for file, sample_id, problem in read_shard(root, spec, shard, rows, digests):
                report.add(DAMAGED, file, problem, sample_id)
        progress.advance(1)
        progress.status(f"shard {shard}")
    report.num_samples, report.num_shards = int(here.sum()), len(shards)
    _check_parts(root, spec, pixels, here, excluded, report)
    _check_files(root, spec, here, report)
    _check_seals(root, spec, shards, named, report, digests if read_data >= 1 else None)
    _check_strays(root, named, report)
    return report


def _shards(root: DataPath, spec: GenerationSpec, report: Report) -> list[int]:
    shards = committed_shards(root)
    for shard in [shard for shard in shards if shard >= spec.num_shards]:
        report.add(DAMAGED, f"samples/{part_name(shard)}", f"the spec has shards 0 to {spec.num_shards - 1}")
    shards = [shard for shard in shards if shard < spec.num_shards]
    if missing := spec.num_shards - len(shards):
        first = min(set(range(spec.num_shards)) - set(shards))
        report.add(
            INCOMPLETE,
            f"samples/{part_name(first)}",
            f"{missing} of {spec.num_shards} shards are missing, this one first: run ppod-gen again",
        )
    return shards


def _choose(shards: Sequence[int], share: float, chooser: random.Random) -> set[int]:
    if share <= 0 or not shards:
        return set()
    return set(chooser.sample(list(shards), min(len(shards), math.ceil(share * len(shards)))))


def _check_shard(
    root: DataPath, spec: GenerationSpec, shard: int, excluded: Mapping[str, str], report: Report
) -> list[dict[str, Any]]:
    """Return the rows of a samples part, without images; none if they cannot be read or are not the spec's."""
    file = f"samples/{part_name(shard)}"
    try:
        checked = spec.safety_checker is not None
        schema, names = (CHECKED_SAMPLES, [*_STRUCTURE, "flagged"]) if checked else (SAMPLES, _STRUCTURE)
        rows: list[dict[str, Any]] = read_table(root / file, schema, names).to_pylist()
    except DamagedError as error:
        report.add(DAMAGED, file, _plain(root, error))
        return []
    ids = spec.shard_sample_ids(shard)
    present = {row["sample_id"] for row in rows}
    expected = [name for name in ids if name in present or name not in excluded]
    if [row["sample_id"] for row in rows] != expected:
        report.add(DAMAGED, file, "its samples are not those of the spec in order")
        return []
    numbers = dict(zip(ids, spec.shard_range(shard), strict=True))
    sizes: dict[str, int | None] = {}
    for row in rows:
        for problem in _row_problems(spec, numbers[row["sample_id"]], row):
            report.add(DAMAGED, file, problem, row["sample_id"])
        tar = row["traj_file"]
        if tar is None or not TRAJ_FILE.fullmatch(tar):
            report.add(DAMAGED, file, f"names the trajectory file {tar!r}", row["sample_id"])
            return []
        if tar not in sizes:
            path = root / "trajectories" / tar
            sizes[tar] = path.stat().st_size if path.is_file() else None
            if sizes[tar] is None:
                report.add(
                    DAMAGED, f"trajectories/{tar}", "is missing, or not a regular file", row["sample_id"]
                )
        size, end = sizes[tar], (row["traj_offset"] or 0) + (row["traj_nbytes"] or 0)
        if size is not None and not 0 < (row["traj_offset"] or 0) < end <= size:
            problem = f"is truncated: the trajectory ends at byte {end}, but the file at {size}"
            report.add(DAMAGED, f"trajectories/{tar}", problem, row["sample_id"])
    return rows


def _row_problems(spec: GenerationSpec, number: int, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield contradictions of a sample's row with the spec or itself."""
    prompt, k = spec.place(number)
    expected = {
        "prompt_id": spec.prompt_ids[prompt],
        "prompt": spec.prompts[prompt],
        "image_index": k,
        "seed": spec.seed,
        "step_index": list(spec.stored_steps()),
    }
    for name, value in expected.items():
        if row[name] != value:
            yield f"{name} is {row[name]!r}, but the spec says {value!r}"
    if spec.safety_checker is not None and row["flagged"] is None:
        yield "flagged is null, but a safety checker ran"
    steps = spec.num_inference_steps
    columns = [row[name] or [] for name in ("timesteps", "stochastic", "log_probs")]
    if [len(column) for column in columns] != [steps] * 3:
        yield f"timesteps, stochastic and log_probs do not all have {steps} values"
        return
    noisy = spec.noisy_range
    for step, (stochastic, value) in enumerate(zip(row["stochastic"], row["log_probs"], strict=True)):
        if stochastic != (value is not None) or (value is not None and not math.isfinite(value)):
            yield f"log_probs[{step}] is {value}, but stochastic[{step}] is {stochastic}"
        if stochastic and step not in noisy:
            yield f"stochastic[{step}] is True, but the spec draws noise in the steps {spec.window} only"


def _check_parts(
    root: DataPath,
    spec: GenerationSpec,
    pixels: Mapping[int, Any],
    here: NDArray[np.bool_],
    excluded: Mapping[str, str],
    report: Report,
) -> None:
    """Check the tables with one part a shard.

    Args:
        root: the data set.
        spec: its generation spec.
        pixels: image_pixels_sha256 of the samples of each shard that are `here`, as Arrow arrays.
        here: a flag for each sample of the spec: the sample is present.
        excluded: samples that may be absent.
        report: the report to add to.
    """
    shards = list(pixels)
    for folder in table_folders(root):
        if not any(folder.glob("[!.]*.parquet")):
            continue
        kind = folder.parent.name
        name = f"{kind}/{folder.name}"
        report.tables.append(name)
        parts = set(parts_in(folder))
        for path in folder.glob("[!.]*.parquet"):
            if shard_of(path.name) not in range(spec.num_shards):
                report.add(
                    LEFTOVER, f"{name}/{path.name}", "not a part of the table, and never read: remove it"
                )
        present = [shard for shard in shards if shard in parts]
        if len(present) < len(shards):
            first = min(set(shards) - parts)
            problem = f"{len(shards) - len(present)} of {len(shards)} parts are missing, this one first"
            report.add(INCOMPLETE, f"{name}/{part_name(first)}", problem)
        for shard in present:
            numbers = spec.shard_range(shard)
            ids = compress(spec.shard_sample_ids(shard), here[numbers.start : numbers.stop])
            file = f"{name}/{part_name(shard)}"
            known = dict(zip(ids, pixels[shard].to_pylist(), strict=True))
            for sample_id, problem in _caught(
                root, check_part(root / file, kind, known, excluded, spec.num_inference_steps)
            ):
                report.add(DAMAGED, file, problem, sample_id)


def _check_files(root: DataPath, spec: GenerationSpec, here: NDArray[np.bool_], report: Report) -> None:
    """Check the tables of labels and pairs."""
    paths = file_tables(root)
    if not paths:
        return
    prompts = PromptOf(spec, here)
    complete = not report.findings
    for path in paths:
        file = name_below(root, path)
        report.tables.append(file.removesuffix(".parquet"))
        check = check_labels if path.parent.name == "labels" else check_pairs
        for sample_id, problem in _caught(root, check(path, prompts)):
            absent = sample_id is not None and not prompts.of([sample_id]) and not complete
            report.add(INCOMPLETE if absent else DAMAGED, file, problem, sample_id)


def _caught(root: DataPath, problems: Iterator[tuple[str | None, str]]) -> Iterator[tuple[str | None, str]]:
    try:
        yield from problems
    except DamagedError as error:
        yield None, _plain(root, error)


def _check_seals(
    root: DataPath,
    spec: GenerationSpec,
    shards: Sequence[int],
    named: set[str],
    report: Report,
    digests: Mapping[DataPath, str] | None,
) -> None:
    """Check that every seal names the existing files and, unless `digests` is None, matches their bytes.

    Args:
        root: the data set.
        spec: its generation spec.
        shards: the committed shards.
        named: the tars that samples name.
        report: the report to add to.
        digests: the sha256 of files that were already read; None to skip their bytes.
    """
    report.sealed = (root / SUMS).exists()
    if (root / PURGING).exists():
        report.add(INCOMPLETE, PURGING, "a purge was stopped: run ppod-data exclude --purge again")
    elif report.sealed:
        parts = [f"samples/{part_name(shard)}" for shard in shards]
        expected = {MANIFEST, *parts, *(f"trajectories/{tar}" for tar in named)}
        _check_seal(root, root / SUMS, expected, report, digests)
    for folder in table_folders(root):
        if (folder / SUMS).exists():
            parts_present = {part_name(shard) for shard in parts_in(folder, spec.num_shards)}
            _check_seal(root, folder / SUMS, parts_present, report, digests)
    for path in file_tables(root):
        if file_seal(path).exists():
            _check_seal(root, file_seal(path), {path.name}, report, digests)


def _check_seal(
    root: DataPath,
    path: DataPath,
    expected: set[str],
    report: Report,
    digests: Mapping[DataPath, str] | None,
) -> None:
    name = name_below(root, path)
    try:
        sums = read_sums(path)
    except DamagedError as error:
        report.add(DAMAGED, name, _plain(root, error))
        return
    for file in sorted(expected - set(sums)):
        report.add(
            DAMAGED, name, f"does not name {file}: it was added after the seal, or the seal is truncated"
        )
    for file in sorted(set(sums) - expected):
        problem = "is not part of the data set" if (path.parent / file).is_file() else "is missing"
        report.add(DAMAGED, name, f"names {file}, which {problem}")
    if digests is not None:
        sealed = {file: sums[file] for file in sorted(expected & set(sums))}
        for file, problem, whole in read_sealed(path.parent, sealed, digests):
            damaged = path if whole else path.parent / file
            report.add(DAMAGED, name_below(root, damaged), problem)


def _check_strays(root: DataPath, named: set[str], report: Report) -> None:
    """Report files that no table names. After damage to a part, its tars are unknown, so tars are skipped."""
    damaged_parts = any(finding.file.startswith("samples/") for finding in report.of(DAMAGED))
    for folder in BASE_FOLDERS:
        for path in in_folder(root / folder):
            name = f"{folder}/{path.name}"
            if folder == "samples" and shard_of(path.name) is not None:
                continue
            if folder == "trajectories" and (path.name in named or damaged_parts):
                continue
            report.add(LEFTOVER, name, "not part of the data set: ppod-data seal removes leftovers of ppod")
    for kind in (*FILE_FOLDERS, *TABLE_FOLDERS):
        for path in in_folder(root / kind):
            odd = path.suffix == ".parquet" and not is_table(path)
            if (odd or (kind in TABLE_FOLDERS and not is_name(path.name))) and not path.name.startswith("."):
                report.add(
                    LEFTOVER, f"{kind}/{path.name}", "skipped: not a valid table name: rename or remove it"
                )
    for path in links_below(root):
        problem = "a link: nothing is written through it, and it is not published: remove it"
        report.add(LEFTOVER, name_below(root, path), problem)


def _plain(root: DataPath, error: DamagedError) -> str:
    """Return the problem without the file's name, which the finding has."""
    return re.sub(rf"^{re.escape(str(root))}/[^:]*: (damaged, )?", "", str(error))
