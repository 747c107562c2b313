"""Lines on the integrity of a data set: seals, verification, exclusions."""

import shlex

from ppod_data.integrity.replay import Replay
from ppod_data.integrity.seal import SealSummary
from ppod_data.integrity.verify import Report
from ppod_data.library.editing import Exclusions
from ppod_data.support.formatting import amount, counted

_MOST_FINDINGS = 50


def sealed_lines(dataset: str, done: SealSummary) -> list[str]:
    """Return lines on a seal."""
    lines = [f"removed {name}, which a stopped process left behind" for name in done.removed]
    what = "was sealed already" if done.was_sealed else "sealed"
    lines.append(f"{dataset}/SHA256SUMS: {what}, {counted(done.num_files, 'file')}, {amount(done.num_bytes)}")
    if done.num_missing_shards:
        lines.append(f"missing: {counted(done.num_missing_shards, 'shard')}; the seal lets none be added")
    check = f"ppod-data verify {shlex.quote(dataset)} --read-data"
    return [*lines, f"check a copy: {check}, or in its folder sha256sum -c SHA256SUMS"]


def verified_lines(
    dataset: str, done: Report, *, max_drift: float = 0.0, replay_asked: bool = False
) -> list[str]:
    """Return lines on what `verify` found.

    Args:
        dataset: Folder or URL of the data set.
        done: The report of `verify`.
        max_drift: Largest difference of a replayed log-probability that is no drift.
        replay_asked: Whether a replay was to be made.
    """
    lines = []
    for finding in done.findings[:_MOST_FINDINGS]:
        sample = f": sample {finding.sample_id}" if finding.sample_id else ""
        lines.append(f"{finding.kind}: {finding.file}{sample}: {finding.problem}")
    if len(done.findings) > _MOST_FINDINGS:
        lines.append(f"and {len(done.findings) - _MOST_FINDINGS:,} more: --json lists all")
    if done.replay:
        lines += _replayed_lines(done.replay, max_drift)
    elif replay_asked:
        lines.append("nothing was replayed: the data is damaged")
    sealed = "sealed" if done.sealed else "not sealed"
    read = f"every byte of {done.num_shards_read}" if done.num_shards_read else "structure only"
    lines.append(
        f"{dataset}: {counted(done.num_samples, 'sample')} in {counted(done.num_shards, 'shard')} ({read}), "
        f"{counted(len(done.tables), 'table')}, {sealed}: "
        + (_counted(done) if done.findings else "all is fine")
    )
    return lines


def _counted(done: Report) -> str:
    kinds = ("damaged", "incomplete", "leftover")
    return ", ".join(f"{len(done.of(kind))} {kind}" for kind in kinds if done.of(kind))


def _replayed_lines(done: Replay, max_drift: float) -> list[str]:
    lines = ["step  timestep  median      largest"]
    for step, timestep, median, largest in zip(
        done.steps, done.timesteps, done.median, done.largest, strict=True
    ):
        lines.append(f"{step:4d}  {timestep:8d}  {median:<10.2e}  {largest:.2e}")
    worst = max(done.largest)
    verdict = f"at most {max_drift:g}" if worst <= max_drift else f"drift: more than {max_drift:g}"
    return [
        *lines,
        f"{counted(done.num_trajectories, 'trajectory', 'trajectories')} replayed: {done.share_exact:.1%} "
        f"of the log-probabilities to the last bit, the largest difference {worst:.2e} ({verdict})",
    ]


def excluded_lines(dataset: str, done: Exclusions) -> list[str]:
    """Return lines on excluded samples."""
    purged = done.purged
    lines = [
        f"{dataset}/exclusions.jsonl: {done.num_added:,} added, {counted(done.num_excluded, 'sample')} excluded now"
    ]
    if purged is None:
        return [
            *lines,
            f"their bytes are still in the files: ppod-data exclude {shlex.quote(dataset)} --purge removes them",
        ]
    lines.append(
        f"purged: {counted(purged.num_samples, 'sample')} and {counted(purged.num_rows, 'row')} of tables"
    )
    return lines + (["sealed again: SHA256SUMS is new"] if purged.sealed_again and purged.num_samples else [])
