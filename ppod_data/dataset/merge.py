"""Merging data sets for training without copies: a small JSON file that names the folders of its parts.

`ppod-train offline` accepts the file in place of a data set.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.same_samples import check_named_once
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.format.spec import GenerationSpec
from ppod_data.storage.files import DataPath, atomic_write, data_path, read_small, refuse_pointer_file
from ppod_data.storage.json_reader import parse_json
from ppod_data.storage.object_store import SERVED
from ppod_data.storage.real_folders import settled

_FORMAT, _VERSION = "ppod-merge", 1
_MAX_BYTES = 1 << 20
# Data sets must share these to be trained on together, because the sampler is part of the policy.
_SHARED = (
    "scheduler",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "guidance_mode",
    "ddim_eta",
    "noisy_steps",
    "compute_dtype",
    "latent_dtype",
    "store_steps",
    "latent_shape",
)


def merge(out: Path, roots: Sequence[DataPath]) -> list[Dataset]:
    """Write the file `out`, which names the data sets in `roots` relative to its folder. Return them.

    Raises:
        ConfigError: a part is not a data set, is named twice, or was made by another sampler.
    """
    out = settled(out)
    if out.is_dir():
        raise ConfigError(f"{out}: this is a folder: give the name of a new file, such as {out}.json")
    if out.is_file():
        _parts(out)  # refuse to overwrite a file that merge did not write
    for root in roots:
        if not isinstance(root, Path):
            _check_served(out, str(root))
    datasets = [Dataset.open(root) for root in roots]
    for dataset in datasets:
        check_alike(datasets[0].spec, dataset)
    check_named_once(datasets)
    folder = out.resolve().parent
    value = {
        "format": _FORMAT,
        "version": _VERSION,
        "parts": [
            os.path.relpath(root.resolve(), folder) if isinstance(root, Path) else str(root) for root in roots
        ],
    }
    atomic_write(out, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
    return datasets


def expand(paths: Sequence[DataPath]) -> list[DataPath]:
    """Return the data set folders that `paths` name: themselves, or the parts of a file that `merge` wrote.

    Raises:
        ConfigError: a file that `merge` did not write.
    """
    return [root for path in paths for root in (_parts(path) if path.is_file() else [path])]


def check_alike(spec: GenerationSpec, dataset: Dataset) -> None:
    """Check that the data set was made by the sampler of `spec`.

    Raises:
        ConfigError: a field of the sampler differs; the message has both values.
    """
    for name in _SHARED:
        if getattr(dataset.spec, name) != getattr(spec, name):
            raise ConfigError(
                f"{dataset.root} was made with {name} {getattr(dataset.spec, name)!r}, the first data set with "
                f"{getattr(spec, name)!r}: train on data sets of one sampler"
            )


def _parts(path: DataPath) -> list[DataPath]:
    if isinstance(path, Path):
        refuse_pointer_file(path)
    try:
        value = parse_json(read_small(path, _MAX_BYTES))
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise ValueError("another format")
        if value.get("version") != _VERSION:
            raise ConfigError(
                f"{path}: version {value.get('version')!r}; this ppod reads version {_VERSION}: update ppod"
            )
        parts = value["parts"]
        if not parts or not all(isinstance(part, str) for part in parts):
            raise ValueError("no parts")
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError, DamagedError) as error:
        raise ConfigError(f"{path}: not a file of ppod-data merge ({error}): give another path") from error
    return [_part(path, part) for part in parts]


def _part(path: DataPath, text: str) -> DataPath:
    """Return the data set that a merge file names. Raises ConfigError for a URL of another kind of server."""
    if "://" not in text and "::" not in text:
        return data_path(path.parent / text)
    _check_served(path, text)
    return data_path(text)


def _check_served(path: DataPath, url: str) -> None:
    if "::" in url or url.partition("://")[0].lower() not in SERVED:
        raise ConfigError(
            f"{path}: the parts of a merge must be folders or URLs of {', '.join(sorted(SERVED))}, not {url!r}"
        )
