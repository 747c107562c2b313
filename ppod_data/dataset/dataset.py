"""A data set folder: its spec, its tables, and single trajectories.

dataset = Dataset.open("data")
dataset.samples(["sample_id", "prompt"])
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ppod_data.dataset.exclusions import excluded_samples, read_exclusions
from ppod_data.dataset.parts import (
    check_known,
    check_one_origin,
    concatenate,
    file_names,
    folder_names,
)
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.format.manifest import UNKNOWN_LICENSE, create_manifest, read_manifest
from ppod_data.format.provenance import provenance_of
from ppod_data.format.sample_index import SampleNumbers
from ppod_data.format.shards import committed_shards, parts_in, read_member
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.tables import (
    CHECKED_SAMPLES,
    LABELS,
    LOG_PROBS,
    PAIRS,
    SAMPLES,
    SCORES,
    iter_table,
    part_name,
    read_table,
)
from ppod_data.format.trajectory import TORCH_NAMES, Trajectory, decode_latents, latent_rows
from ppod_data.storage.cache import read_cached
from ppod_data.storage.files import AnyPath, DataPath, data_path
from ppod_data.support.formatting import counted

if TYPE_CHECKING:
    from PIL.Image import Image

_TRAJECTORY = ("sample_id", "prompt_id", "prompt", "timesteps", "stochastic", "log_probs", "step_index")
_MAX_HEADER = 1 << 20
_MEMBER = ("traj_file", "traj_offset", "traj_nbytes", "traj_sha256")


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A data set folder, opened by `Dataset.open(path)`. Reads are verified, and nothing is written.

    >>> from ppod_data import Dataset
    >>> dataset = Dataset.open("data")
    >>> dataset.samples().num_rows, dataset.score_names()
    (4, ['scenes'])

    Excluded samples are left out of every result: tables have no rows of them, and pairs with one are dropped.
    """

    root: DataPath
    spec: GenerationSpec
    manifest: Mapping[str, Any]
    """The content of ppod.json."""

    @classmethod
    def open(cls, path: AnyPath) -> "Dataset":
        """Open the data set in the folder `path`, or at a URL such as `s3://bucket/data`.

        Raises:
            ConfigError: there is no data set, or one of a newer format.
            DamagedError: the manifest was edited or truncated.
        """
        root = data_path(path)
        spec, manifest = read_manifest(root)
        return cls(root=root, spec=spec, manifest=manifest)

    @cached_property
    def excluded(self) -> Mapping[str, str]:
        """Return the reason of each excluded sample_id. The list is read once, on first use."""
        return excluded_samples(self.spec, read_exclusions(self.root))

    def __repr__(self) -> str:
        """Summarise the data set on one line, for notebooks."""
        spec, shards = self.spec, len(self.shards())
        of_all = f"{shards} of " if shards < spec.num_shards else ""
        parts = f"{counted(len(self), 'sample')} of {counted(len(spec.prompts), 'prompt')}"
        return f"Dataset({str(self.root)!r}: {parts}, {of_all}{counted(spec.num_shards, 'shard')})"

    def _repr_html_(self) -> str:
        """Summarise the data set for notebooks: its model, its tables, and an image of each of the first prompts."""
        from ppod_data.dataset.notebook import MAX_THUMBNAILS, summary_html

        prompts: dict[str, str] = {}
        for shard in self.shards()[:1]:
            for row in self.sample_part(shard, ["sample_id", "prompt"]).to_pylist():
                prompts.setdefault(row["prompt"], row["sample_id"])
        tables = {
            "scores": self.score_names(),
            "labels": self.label_names(),
            "pairs": self.pair_names(),
            "log_probs": self.log_prob_names(),
        }
        facts = {"model": self.spec.model} | {
            name: ", ".join(names) for name, names in tables.items() if names
        }
        chosen = list(prompts.items())[:MAX_THUMBNAILS]
        return summary_html(repr(self), facts, [(prompt, self.image(id)) for prompt, id in chosen])

    def __len__(self) -> int:
        """Return the number of available samples."""
        return self.num_samples

    def __bool__(self) -> bool:
        """Return true, also for an empty data set."""
        return True

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the row of `samples` of one sample, its image decoded. Raises IndexError beyond the last."""
        left = index + len(self) if index < 0 else index
        for shard in self.shards() if left >= 0 else ():
            size = len(self.spec.shard_range(shard)) - self._num_excluded(shard)
            if left < size:
                columns = [name for name in self.sample_schema.names if name != "image"]
                row: dict[str, Any] = self.sample_part(shard, columns).slice(left, 1).to_pylist()[0]
                return row | {"image": self.image(row["sample_id"])}
            left -= size
        raise IndexError(f"{self.root} has {len(self):,} samples: index {index} is out of range")

    def image(self, sample_id: str) -> "Image":
        """Return the image of one sample, checked against its sha256. Raises ConfigError for an absent sample."""
        from ppod_data.dataset.image_reader import read_images
        from ppod_data.format.images import decode_image

        for _, data in () if sample_id in self.excluded else read_images(self.root, self.spec, [sample_id]):
            return decode_image(data)
        raise ConfigError(f'{self.root}: no sample {sample_id!r}: `samples(["sample_id"])` lists them')

    @property
    def num_samples(self) -> int:
        """Return the number of samples in committed shards, without excluded ones."""
        return sum(len(self.spec.shard_range(shard)) - self._num_excluded(shard) for shard in self.shards())

    @property
    def num_excluded(self) -> int:
        """Return the number of excluded samples in committed shards."""
        return sum(self._num_excluded(shard) for shard in self.shards()) if self.excluded else 0

    @property
    def sample_schema(self) -> Any:
        """Return the schema of `samples`, with `flagged` if a safety checker ran."""
        return SAMPLES if self.spec.safety_checker is None else CHECKED_SAMPLES

    def samples(self, columns: Sequence[str] | None = None) -> Any:
        """Return an Arrow table with one row a sample, of every committed shard in order; all columns, or `columns`.

        The images of a large data set may exceed memory; `iter_samples` yields one shard at a time.
        """
        names = list(self.sample_schema.names if columns is None else columns)
        return concatenate(list(self.iter_samples(names)), self.sample_schema, names)

    def iter_samples(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Yield the samples' Arrow table of each committed shard."""
        for shard in self.shards():
            yield self.sample_part(shard, columns)

    def shards(self) -> list[int]:
        """Return the shards committed so far, ascending, from one listing of a folder."""
        return committed_shards(self.root)

    def scores(self, name: str) -> Any:
        """Return an Arrow table with one row a scored sample. Its metadata is that of the first part."""
        return self._read_parts("scores", name, self.score_names(), SCORES)

    def score_parts(self, name: str) -> list[int]:
        """Return the shards that have a part in a score table, ascending. Raises ConfigError for an unknown table."""
        check_known(name, "scores", self.score_names(), self.root)
        return self._parts_of("scores", name)

    def score_part(self, name: str, shard: int, columns: Sequence[str] | None = None) -> Any:
        """Return a score table's part of one shard; all columns, or `columns`, which must include sample_id."""
        return self._kept(
            read_table(self.root / "scores" / name / part_name(shard), SCORES, columns), "sample_id"
        )

    def log_probs(self, name: str) -> Any:
        """Return an Arrow table of the stored steps' log-probabilities under another policy, `name`."""
        return self._read_parts("log_probs", name, self.log_prob_names(), LOG_PROBS)

    def pairs(self, name: str) -> Any:
        """Return an Arrow table with one row a pair. Its metadata holds the pairs' provenance."""
        check_known(name, "pairs", self.pair_names(), self.root)
        return self._kept(
            read_table(self.root / "pairs" / f"{name}.parquet", PAIRS), "chosen_id", "rejected_id"
        )

    def pairs_made(self, name: str) -> Mapping[str, Any]:
        """Return the provenance of a table of pairs from its metadata; empty if it has none."""
        check_known(name, "pairs", self.pair_names(), self.root)
        path = self.root / "pairs" / f"{name}.parquet"
        return provenance_of(read_table(path, PAIRS, []).schema.metadata, path)

    def iter_pairs(self, name: str, columns: Sequence[str]) -> Iterator[Any]:
        """Yield some columns of a table of pairs as Arrow tables of some rows each, in bounded memory."""
        check_known(name, "pairs", self.pair_names(), self.root)
        ids = ("chosen_id", "rejected_id") if self.excluded else ()
        for piece in iter_table(
            self.root / "pairs" / f"{name}.parquet", PAIRS, list(dict.fromkeys((*columns, *ids)))
        ):
            yield self._kept(piece, *ids).select(list(columns))

    def labels(self, name: str, columns: Sequence[str] | None = None) -> Any:
        """Return an Arrow table with one row a comparison by people. Its metadata holds the labels' provenance."""
        check_known(name, "labels", self.label_names(), self.root)
        names = list(LABELS.names if columns is None else columns)
        table = read_table(self.root / "labels" / f"{name}.parquet", LABELS, list({*names, "a_id", "b_id"}))
        return self._kept(table, "a_id", "b_id").select(names)

    def score_names(self) -> list[str]:
        """Return the names of the score tables, sorted."""
        return folder_names(self.root / "scores")

    def log_prob_names(self) -> list[str]:
        """Return the names of the tables of other policies' log-probabilities, sorted."""
        return folder_names(self.root / "log_probs")

    def pair_names(self) -> list[str]:
        """Return the names of the pair tables, sorted."""
        return file_names(self.root / "pairs")

    def label_names(self) -> list[str]:
        """Return the names of the tables of people's labels, sorted."""
        return file_names(self.root / "labels")

    def missing_shards(self) -> list[int]:
        """Return the shards that are not generated yet, ascending."""
        return sorted(set(range(self.spec.num_shards)) - set(self.shards()))

    def trajectory_index(self, sample_ids: Sequence[str]) -> Any:
        """Return the location of some samples' trajectories: an Arrow table with one row each, in the given order.

        Columns: sample_id, prompt_id, prompt, timesteps, stochastic, log_probs, step_index, traj_file,
        traj_offset, traj_nbytes, traj_sha256. Only the shards that hold these samples are read, without images.
        Raises `ConfigError` for an absent or excluded sample.
        """
        return self._find(sample_ids, (*_TRAJECTORY, *_MEMBER))

    def trajectory(self, sample_id: str) -> Trajectory:
        """Return the trajectory of one sample, checked against its sha256.

        Raises:
            ConfigError: the sample is absent.
            DamagedError: the bytes differ from those committed.
        """
        return self.read_trajectory(self.trajectory_index([sample_id]).to_pylist()[0])

    def read_trajectory(self, row: Mapping[str, Any]) -> Trajectory:
        """Read the trajectory of a row of `trajectory_index` (or of `samples`): one read of one file.

        Trajectories of a data set in an object store are cached (`ppod_data.storage.cache`). Raises
        `DamagedError`, naming the file and the sample, if the bytes differ from those committed.
        """
        self.check_location(row)
        data = read_cached(self.root, row["traj_sha256"], row["traj_nbytes"], lambda: self.read_member(row))
        return self.decode(row, data)

    def read_member(self, row: Mapping[str, Any]) -> bytearray:
        """Read the bytes of a row's trajectory from its file and check their sha256. Raises `DamagedError`."""
        return read_member(self.root, *(row[name] for name in _MEMBER), sample_id=row["sample_id"])

    def check_location(self, row: Mapping[str, Any]) -> None:
        """Raise `DamagedError` for a row that exceeds bounded memory, or whose steps are not those of this data set."""
        sample_id = row["sample_id"]
        self._check_row(row)
        most = len(latent_rows(row["step_index"])) * math.prod(self.spec.latent_shape) * 4 + _MAX_HEADER
        if row["traj_nbytes"] > most:
            raise DamagedError(
                f"{self.root / 'trajectories' / row['traj_file']}: sample {sample_id} claims "
                f"{row['traj_nbytes']} bytes, where the spec needs at most {most}: get the shard again"
            )

    def decode(self, row: Mapping[str, Any], data: bytearray) -> Trajectory:
        """Decode a row's trajectory from the bytes of its member, which it shares. The caller has checked their sha256.

        Raises `DamagedError` if they are not latents of the spec's shape, dtype and steps.
        """
        sample_id, expected = row["sample_id"], latent_rows(row["step_index"])
        where = f"{self.root / 'trajectories' / row['traj_file']}: sample {sample_id}"
        index, latents = decode_latents(data, where)
        shape = (len(expected), *self.spec.latent_shape)
        dtype = f"torch.{TORCH_NAMES[self.spec.latent_dtype]}"
        if index != expected or tuple(latents.shape) != shape or str(latents.dtype) != dtype:
            raise DamagedError(
                f"{where} holds {latents.dtype} latents {tuple(latents.shape)} of rows {index}, but the spec "
                f"says {dtype} {shape} of rows {expected}: get the shard again"
            )
        if not bool(latents.isfinite().all()):
            raise DamagedError(f"{where} holds latents that are NaN or infinite: get the shard again")
        return Trajectory(**{name: row[name] for name in _TRAJECTORY}, latent_index=index, latents=latents)

    def _check_row(self, row: Mapping[str, Any]) -> None:
        """Raise DamagedError for a row that ppod never writes: nulls, or other steps than the spec's."""
        steps = self.spec.num_inference_steps
        filled = all(row[name] is not None for name in (*_TRAJECTORY, *_MEMBER))
        if (
            not filled
            or any(len(row[name]) != steps for name in ("timesteps", "stochastic", "log_probs"))
            or tuple(row["step_index"]) != self.spec.stored_steps()
        ):
            raise DamagedError(
                f"{self.root / 'samples'}: the row of sample {row['sample_id']} does not match the steps of this data "
                "set: run ppod-data verify"
            )

    @cached_property
    def numbers(self) -> SampleNumbers:
        """Return the index of the numbers of all samples of the spec, including absent and excluded ones."""
        return SampleNumbers.of(self.spec)

    def _find(self, sample_ids: Sequence[str], columns: Sequence[str]) -> Any:
        """Return the rows of some samples in the given order, read shard by shard."""
        parts = []
        for shard, wanted in sorted(self._by_shard(sample_ids).items()):
            table = self.sample_part(shard, columns)
            table = table.filter(pc.is_in(table["sample_id"], pa.array(sorted(wanted), pa.string())))
            if table.num_rows != len(wanted):
                path = self.root / "samples" / part_name(shard)
                raise DamagedError(f"{path}: its sample_ids are not those of the spec: get this part again")
            parts.append(table)
        table = concatenate(parts, SAMPLES, columns)
        ids = table["sample_id"].combine_chunks()
        return table.take(pc.index_in(pa.array(sample_ids, pa.string()), value_set=ids))

    def _by_shard(self, sample_ids: Sequence[str]) -> dict[int, set[str]]:
        committed = set(self.shards())
        by_shard: dict[int, set[str]] = {}
        for sample_id, number in zip(sample_ids, self.numbers.find(sample_ids).tolist(), strict=True):
            shard = number // self.spec.images_per_shard
            if sample_id in self.excluded:
                raise ConfigError(
                    f"{self.root}: sample {sample_id} is excluded ({self.excluded[sample_id]}): leave it out"
                )
            if number < 0:
                raise ConfigError(
                    f"{self.root}: no sample {sample_id} in this data set: check that it comes from this one"
                )
            if shard not in committed:
                raise ConfigError(
                    f"{self.root}: sample {sample_id} is not generated yet (shard {shard}): run ppod-gen again"
                )
            by_shard.setdefault(shard, set()).add(sample_id)
        return by_shard

    def sample_part(self, shard: int, columns: Sequence[str] | None = None) -> Any:
        """Return the samples' Arrow table of one committed shard; all columns, or `columns`."""
        path = self.root / "samples" / part_name(shard)
        expected = len(self.spec.shard_range(shard))
        excluded = self._num_excluded(shard)
        hidden = excluded and columns is not None and "sample_id" not in columns
        table = read_table(
            path, self.sample_schema, [*columns, "sample_id"] if hidden and columns else columns
        )
        if not expected - excluded <= table.num_rows <= expected:
            raise DamagedError(f"{path}: {table.num_rows} rows, not {expected}: get this part again")
        table = self._kept(table, "sample_id") if excluded else table
        return table.drop_columns(["sample_id"]) if hidden else table

    def _num_excluded(self, shard: int) -> int:
        """Return the number of excluded samples of the shard, purged or not."""
        return self._excluded_of_shard.get(shard, 0) if self.excluded else 0

    @cached_property
    def _excluded_of_shard(self) -> Mapping[int, int]:
        numbers = self.numbers.find(list(self.excluded))
        shards, counts = np.unique(numbers[numbers >= 0] // self.spec.images_per_shard, return_counts=True)
        return dict(zip(shards.tolist(), counts.tolist(), strict=True))

    def _kept(self, table: Any, *columns: str) -> Any:
        """Return the rows that name no excluded sample in these columns."""
        if not self.excluded:
            return table
        excluded = pa.array(sorted(self.excluded), pa.string())
        for column in columns:
            table = table.filter(pc.invert(pc.is_in(table[column], excluded)))
        return table

    def _read_parts(self, folder: str, name: str, known: Sequence[str], schema: Any) -> Any:
        check_known(name, folder, known, self.root)
        parts = [self.root / folder / name / part_name(shard) for shard in self._parts_of(folder, name)]
        tables = [self._kept(read_table(path, schema), "sample_id") for path in parts]
        check_one_origin(self.root, f"{folder}/{name}", tables)
        return concatenate(tables, schema, schema.names)

    def _parts_of(self, folder: str, name: str) -> list[int]:
        """Return the shards of this data set that have a part in a table."""
        return parts_in(self.root / folder / name, self.spec.num_shards)


def create(path: DataPath | str, spec: GenerationSpec, license: str = UNKNOWN_LICENSE) -> Dataset:
    """Create the data set folder `path` for `spec`, or open an existing one with the same spec.

    Args:
        path: the folder, or a URL.
        spec: the generation spec.
        license: an SPDX identifier, or "unknown", which matches every licence of an existing folder.

    Raises:
        SpecMismatchError: the folder was made with another spec or licence.
        ConfigError: the folder holds other files, which the card could overwrite.
    """
    create_manifest(data_path(path), spec, license)
    return Dataset.open(path)
