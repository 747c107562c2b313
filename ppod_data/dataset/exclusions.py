"""The exclusion list: samples that were taken down and that every reader leaves out.

`exclusions.jsonl` in the data set's folder holds one JSON line an entry. A last line holds the number of
entries and the sha256 of the lines above, so that a damaged or truncated list is rejected rather than half
applied. Entries are added, never removed. The list is not covered by the seal: samples of a sealed data set can
still be excluded.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ppod_data.errors import ConfigError, DamagedError
from ppod_data.format.prompts import normalise, prompt_id, unprintable
from ppod_data.format.sample_index import SampleNumbers
from ppod_data.format.spec import GenerationSpec
from ppod_data.storage.files import DataPath, atomic_create, data_path, open_file, read_small, replace
from ppod_data.storage.json_reader import parse_json
from ppod_data.storage.range_reader import retry_damaged
from ppod_data.storage.real_folders import refuse_linked_folders
from ppod_data.support.canonical_json import canonical_json

EXCLUSIONS = "exclusions.jsonl"
_MAX_BYTES = 1 << 30
_ID = re.compile(r"[0-9a-f]{32}")
_KINDS = ("sample_id", "prompt_id")


@dataclass(frozen=True)
class Exclusion:
    """One entry of the list."""

    kind: str
    """"sample_id", or "prompt_id" for all images of a prompt."""
    id: str
    reason: str


def exclude(
    root: DataPath, spec: GenerationSpec, sample_ids: Sequence[str], prompts: Sequence[str], reason: str
) -> int:
    """Add samples, and all samples of prompts, to the exclusion list. Return the number of new entries.

    Existing entries keep their first reason. Safe for concurrent processes.

    Raises:
        ConfigError: a sample or prompt is not of this data set, or the reason is not one printable line.
        DamagedError: the list is damaged.
    """
    root = data_path(root)
    reason = reason.strip()
    if not reason or (bad := unprintable(reason)):
        problem = f"holds the control character {bad}" if reason else "is empty"
        raise ConfigError(f"the reason {problem}: give the reason in one line")
    entries = [Exclusion("sample_id", sample_id, reason) for sample_id in sample_ids]
    entries += [Exclusion("prompt_id", prompt_id(text), reason) for text in prompts]
    refuse_linked_folders(root)
    _check_known(root, spec, entries, [normalise(text) for text in prompts])
    while True:
        with _locked(root / EXCLUSIONS) as version:
            old = read_exclusions(root)
            known = {(entry.kind, entry.id) for entry in old}
            new = [entry for entry in dict.fromkeys(entries) if (entry.kind, entry.id) not in known]
            if not new:
                return 0
            data = encode_exclusions([*old, *new])
            if version is not None:
                if replace(root / EXCLUSIONS, data, version):
                    return len(new)
                continue
        if atomic_create(root / EXCLUSIONS, data):
            return len(new)


def read_exclusions(root: DataPath) -> list[Exclusion]:
    """Return the entries of the list in order; none if there is no list.

    Raises `DamagedError` for a damaged list.
    """
    return retry_damaged(root, lambda: _read(root / EXCLUSIONS))


def _read(path: DataPath) -> list[Exclusion]:
    try:
        data = read_small(path, _MAX_BYTES)
    except FileNotFoundError:
        return []
    try:
        body, last = data[: data.rindex(b"\n", 0, -1) + 1], data[data.rindex(b"\n", 0, -1) + 1 :]
        entries = [_entry(line) for line in body.split(b"\n")[:-1]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path) from error
    if last != _last_line(entries, body):
        raise _damaged(path)
    return entries


def excluded_samples(spec: GenerationSpec, entries: Sequence[Exclusion]) -> dict[str, str]:
    """Return the reason of each excluded sample_id of the spec. Entries about other data sets' prompts match none."""
    reasons: dict[str, str] = {}
    numbers = dict(zip(spec.prompt_ids, range(len(spec.prompts)), strict=True)) if entries else {}
    for entry in entries:
        if entry.kind == "sample_id":
            reasons.setdefault(entry.id, entry.reason)
        elif (prompt := numbers.pop(entry.id, None)) is not None:
            for k in range(spec.num_images_of(prompt)):
                reasons.setdefault(spec.sample_id(entry.id, k), entry.reason)
    return reasons


def foreign_entries(spec: GenerationSpec, entries: Sequence[Exclusion]) -> list[Exclusion]:
    """Return the entries that name no sample and no prompt of the spec. `exclude` never writes one."""
    if not entries:
        return []
    samples = pa.array([entry.id for entry in entries if entry.kind == "sample_id"], pa.string())
    missing = {samples[int(row)].as_py() for row in np.flatnonzero(SampleNumbers.of(spec).find(samples) < 0)}
    missing |= {entry.id for entry in entries if entry.kind == "prompt_id"} - set(spec.prompt_ids)
    return [entry for entry in entries if entry.id in missing]


def encode_exclusions(entries: Sequence[Exclusion]) -> bytes:
    """Return the bytes of a list with these entries."""
    lines = (canonical_json({entry.kind: entry.id, "reason": entry.reason}) + "\n" for entry in entries)
    body = "".join(lines).encode()
    return body + _last_line(entries, body)


def _last_line(entries: Sequence[Exclusion], body: bytes) -> bytes:
    end = {"entries": len(entries), "sha256": hashlib.sha256(body).hexdigest()}
    return canonical_json(end).encode() + b"\n"


def _entry(line: bytes) -> Exclusion:
    values = parse_json(line)
    [kind] = [kind for kind in _KINDS if kind in values]
    entry = Exclusion(kind, values.pop(kind), values.pop("reason"))
    if values or not _ID.fullmatch(entry.id) or unprintable(entry.reason):
        raise ValueError("not an entry")
    return entry


def _damaged(path: DataPath) -> DamagedError:
    return DamagedError(
        f"{path}: the list of excluded samples is damaged or was edited by hand: get it again; to add to it use "
        "ppod-data exclude"
    )


def _check_known(
    root: DataPath, spec: GenerationSpec, entries: Sequence[Exclusion], prompts: Sequence[str]
) -> None:
    if unknown := [prompt for prompt in prompts if prompt not in spec.prompts]:
        raise ConfigError(f"{root}: no prompt {unknown[0]!r} in this data set: write it as in ppod.json")
    unseen = {entry.id for entry in entries if entry.kind == "sample_id"}
    if not unseen:
        return
    for shard in range(spec.num_shards):
        unseen -= set(spec.shard_sample_ids(shard))
    if unseen:
        raise ConfigError(
            f"{root}: no sample {min(unseen)!r} in this data set: check that it comes from this one"
        )


@contextlib.contextmanager
def _locked(path: DataPath) -> Iterator[str | None]:
    """Lock the list for the block. Yield its version for `replace`, or None if there is no list.

    Object stores have no locks; there the version detects concurrent changes.
    """
    if not isinstance(path, Path):
        yield path.version() if path.exists() else None
        return
    while True:
        try:
            file = _open_to_lock(path)
        except FileNotFoundError:
            yield None
            return
        with file:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                yield ""
                return


def _open_to_lock(path: Path) -> io.BufferedReader:
    """Open the list for an exclusive lock, which NFS grants only on a file that is open for writing."""
    try:
        return open_file(path, os.O_RDWR)
    except FileNotFoundError:
        raise
    except OSError:  # another user's list, which `replace` can still replace
        return open_file(path)
