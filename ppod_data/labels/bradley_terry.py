"""Scores from comparisons by the Bradley–Terry model, P(i is preferred to j) = σ(s_i - s_j).

The scores of a prompt's images maximise the likelihood of its labels times a prior. The prior keeps the score of an
image that always wins finite, and the mean of a prompt at 0. A tie counts as half a win for each image.

Shapes: K images of one prompt, L labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.format.provenance import with_provenance
from ppod_data.format.shards import committed_shards
from ppod_data.format.sums import seal_table
from ppod_data.format.tables import SAMPLES, SCORES, check_name, part_name, read_table, write_table
from ppod_data.labels.matching import SampleIndex
from ppod_data.labels.stored import PEOPLE, read_votes
from ppod_data.labels.votes import Votes
from ppod_data.scoring.rows import OK
from ppod_data.storage.files import DataPath, sha256_file
from ppod_data.storage.real_folders import refuse_linked_folders

PRIOR_PRECISION = 0.1
"""1 / variance of the normal prior of a score; about a tenth of a label's weight."""
_TOLERANCE = 1e-10
_MAX_STEPS = 100


def fit(votes: Votes, count: int) -> NDArray[np.float64]:
    """Fit the scores [count] of images 0 … count - 1 to L labels, weighted by their votes.

    The method is Newton's with halved steps. The objective is strictly concave, so it converges to the single maximum.
    """
    a, b = votes.a.astype(np.int64), votes.b.astype(np.int64)
    weight = np.maximum(votes.votes, 1).astype(np.float64)

    def value(scores: NDArray[np.float64]) -> float:
        d = scores[a] - scores[b]
        likelihood = votes.label * -np.logaddexp(0, -d) + (1 - votes.label) * -np.logaddexp(0, d)
        return float((weight * likelihood).sum() - PRIOR_PRECISION / 2 * (scores**2).sum())

    scores = np.zeros(count)
    for _ in range(_MAX_STEPS):
        chance = 1 / (1 + np.exp(-(scores[a] - scores[b])))
        pull = weight * (votes.label - chance)
        gradient = np.bincount(a, pull, count) - np.bincount(b, pull, count) - PRIOR_PRECISION * scores
        curvature = weight * chance * (1 - chance)
        hessian = np.zeros((count, count))
        np.add.at(hessian, (a, b), -curvature)
        np.add.at(hessian, (b, a), -curvature)
        hessian[np.diag_indices(count)] = PRIOR_PRECISION - hessian.sum(1)
        step = np.linalg.solve(hessian, gradient)
        if np.abs(step).max() < _TOLERANCE:
            break
        now, length = value(scores), 1.0
        while value(scores + length * step) < now and length > _TOLERANCE:
            length /= 2
        scores = scores + length * step
    return scores


def fit_prompts(votes: Votes, index: SampleIndex) -> NDArray[np.float64]:
    """Fit the score of every sample of the index; NaN for a sample without comparisons."""
    scores = np.full(len(index.prompt_of), np.nan)
    prompt = index.prompt_of[votes.a]
    order = np.argsort(prompt, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(prompt[order])) + 1):
        if not len(rows):
            continue
        seen, places = np.unique(np.concatenate([votes.a[rows], votes.b[rows]]), return_inverse=True)
        half = len(rows)
        inner = Votes(
            a=places[:half].astype(np.int32),
            b=places[half:].astype(np.int32),
            label=votes.label[rows],
            votes=votes.votes[rows],
        )
        scores[seen] = fit(inner, len(seen))
    return scores


@dataclass(frozen=True, kw_only=True)
class PeopleScores:
    """Result of `write_scores`."""

    name: str
    num_scored: int
    num_unjudged: int
    """Images without comparisons; their rows have no score."""


def write_scores(dataset: Dataset, labels: str, *, name: str, dimension: str | None = None) -> PeopleScores:
    """Write people's scores of all images to the score table `scores/<name>`.

    Raises:
        ConfigError: unknown labels, or an existing score table of this name with other content.
    """
    check_name(name, "a score table")
    refuse_linked_folders(dataset.root)
    index = SampleIndex.read(dataset)
    votes, _, dimension = read_votes(dataset, labels, index, dimension)
    scores = fit_prompts(votes, index)
    digest = sha256_file(dataset.root / "labels" / f"{labels}.parquet")[:12]
    revision = f"{labels} {dimension} {digest}"
    folder = dataset.root / "scores" / name
    tables = dict(_parts(dataset, folder, index, scores, revision))
    for path, table in tables.items():
        if path.exists() and not read_table(path, SCORES).equals(table):
            raise ConfigError(f"scores/{name} was made otherwise: give another name with --scores NAME")
    if others := {*folder.glob("[!.]*.parquet")} - tables.keys():
        raise ConfigError(
            f"scores/{name} holds {sorted(others)[0].name}, which is not a shard of this data set"
        )
    for path, table in tables.items():
        if not path.exists():
            write_table(path, table)
    seal_table(folder, dataset.spec)
    judged = int(np.isfinite(scores).sum())
    return PeopleScores(name=name, num_scored=judged, num_unjudged=len(scores) - judged)


def _parts(
    dataset: Dataset, folder: DataPath, index: SampleIndex, scores: NDArray[np.float64], revision: str
) -> Iterator[tuple[DataPath, Any]]:
    """Yield each part of the score table; `scores` are of the samples of the index.

    Parts hold the rows of all samples of their shard. Samples outside the index, which are excluded, have no score.
    """
    with_none = np.append(scores, np.nan)
    for shard in committed_shards(dataset.root):
        path = dataset.root / "samples" / part_name(shard)
        samples = read_table(path, SAMPLES, ["sample_id", "image_pixels_sha256"])
        rows = pc.fill_null(pc.index_in(samples["sample_id"], value_set=index.ids), len(scores))
        part = with_none[np.asarray(rows)]
        ids = samples["sample_id"].to_pylist()
        columns = {
            "sample_id": samples["sample_id"],
            "score": pa.array(part, mask=np.isnan(part)),
            "scorer": [PEOPLE] * len(part),
            "revision": [revision] * len(part),
            "image_pixels_sha256": samples["image_pixels_sha256"],
            "status": [
                _status(score, name in dataset.excluded) for name, score in zip(ids, part, strict=True)
            ],
        }
        table = pa.table(columns, schema=SCORES)
        made = {"dtype": "fp64", "device": "cpu", "prior_precision": PRIOR_PRECISION}
        metadata = with_provenance(table.schema.metadata, made)
        yield folder / part_name(shard), table.replace_schema_metadata(metadata)


def _status(score: float, is_excluded: bool) -> str:
    if not np.isnan(score):
        return OK
    return "failed: excluded" if is_excluded else "failed: nobody compared it"
