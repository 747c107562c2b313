"""Matching of a label file's images with samples of a data set: by id, by the hash of the pixels, or by position."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import DamagedError
from ppod_data.format.images import decode_image, pixels_sha256
from ppod_data.format.prompts import prompt_id
from ppod_data.labels.answers import BadRowError, Image, Place, reason_of, shown
from ppod_data.storage.files import read_small

_CACHED = 100_000
_MAX_FILE = 256 << 20
_AMBIGUOUS = -1
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""Prefix that Label Studio adds to the name of an uploaded file."""


class ForeignImageError(BadRowError):
    """The image is not in the data set."""


@dataclass(frozen=True, eq=False)
class SampleIndex:
    """Index of a data set's committed samples; samples are rows from 0, prompts are numbers from 0."""

    ids: Any
    """Arrow array of the sample ids."""
    prompts: Any
    """Arrow array of the prompts."""
    prompt_ids: Any
    """Arrow array of the prompt ids."""
    prompt_of: NDArray[np.int32]
    """For each sample the number of its prompt."""
    _rows: Mapping[str, int]
    """Row by sample id and by hash of pixels."""
    _places: Mapping[Place, int]
    _prompt_rows: Mapping[str, int]
    """Prompt number by prompt id."""
    _seen_prompts: dict[str, int | None] = field(default_factory=dict)
    _seen_images: dict[Path | bytes, str] = field(default_factory=dict)
    """Hash of the pixels, by a file's path or the sha256 of the bytes."""

    @classmethod
    def read(cls, dataset: Dataset) -> "SampleIndex":
        """Read the index of a data set."""
        spec = dataset.spec
        table = dataset.samples(["sample_id", "prompt_id", "image_index", "image_pixels_sha256"])
        prompt_rows = {name: row for row, name in enumerate(spec.prompt_ids)}
        ids = table["sample_id"].to_pylist()
        prompt_of = np.array([prompt_rows[name] for name in table["prompt_id"].to_pylist()], np.int32)
        rows: dict[str, int] = {}
        column = table["image_pixels_sha256"].to_pylist()
        for row, pixels in enumerate(column):
            rows[pixels] = _AMBIGUOUS if pixels in rows else row
        for row, (prompt, pixels) in enumerate(zip(prompt_of.tolist(), column, strict=True)):
            if rows[pixels] == _AMBIGUOUS:
                key = _of_prompt(pixels, prompt)
                rows[key] = _AMBIGUOUS if key in rows else row
        ks = table["image_index"].to_pylist()
        places = {
            Place(prompt + 1, k): row
            for row, (prompt, k) in enumerate(zip(prompt_of.tolist(), ks, strict=True))
        }
        rows |= {name: row for row, name in enumerate(ids)}
        return cls(
            ids=pa.array(ids, pa.string()),
            prompts=pa.array(spec.prompts, pa.string()),
            prompt_ids=pa.array(spec.prompt_ids, pa.string()),
            prompt_of=prompt_of,
            _rows=rows,
            _places=places,
            _prompt_rows=prompt_rows,
        )

    def find(self, image: Image, folder: Path, prompt: int | None = None) -> int:
        """Return the row of the sample that an image is; image files are in `folder`, the label file's folder.

        Args:
            prompt: number of the prompt if the record names one; it distinguishes samples of several prompts with
                the same pixels.

        Raises:
            ForeignImageError: the image is not in the data set.
            BadRowError: several samples have these pixels, or the bytes are not an image.
        """
        if image.place is not None:
            return self._at(image.place)
        row = self._by_key(image.key)
        if row is None and (pixels := self._pixels_of(image, folder)) is not None:
            row = self._rows.get(pixels)
            if row == _AMBIGUOUS and prompt is not None:
                row = self._rows.get(_of_prompt(pixels, prompt), _AMBIGUOUS)
        if row is None:
            raise ForeignImageError(f"{shown(image.key or 'an image')} is not an image of this data set")
        if row == _AMBIGUOUS:
            raise BadRowError("several samples have these pixels: name the image by its sample_id")
        return row

    def _at(self, place: Place) -> int:
        row = self._places.get(place)
        if row is None:
            raise ForeignImageError(f"image {place.k + 1} of prompt {place.prompt} is not in the data set")
        return row

    def _by_key(self, key: str | None) -> int | None:
        """Return the sample whose id, or hash of pixels, is the key or the file name in the key."""
        if key is None:
            return None
        for name in (key, *_stems(key)):
            if (row := self._rows.get(name)) is not None:
                return row
        return None

    def _pixels_of(self, image: Image, folder: Path) -> str | None:
        """Return the hash of the pixels of an image's bytes, or of the file that its key names; None without either."""
        data, path = image.data, None
        if data is None:
            path = image_file(image.key, folder) if image.key is not None else None
            if path is None:
                return None
        cache_key = path if path is not None else hashlib.sha256(data or b"").digest()
        if cache_key not in self._seen_images:
            if len(self._seen_images) >= _CACHED:
                self._seen_images.clear()
            self._seen_images[cache_key] = pixels_of(data or b"") if path is None else _pixels_of_file(path)
        return self._seen_images[cache_key]

    def find_prompt(self, prompt: str) -> int | None:
        """Return the number of a prompt; None if it is not in the data set."""
        if prompt not in self._seen_prompts:
            if len(self._seen_prompts) >= _CACHED:
                self._seen_prompts.clear()
            self._seen_prompts[prompt] = self._prompt_rows.get(prompt_id(prompt)) if prompt.strip() else None
        return self._seen_prompts[prompt]


def _stems(key: str) -> Iterator[str]:
    """Yield the possible sample ids in a file name or an address, with and without an upload's prefix."""
    for address in (key, key.partition("?")[0]):
        stem = PurePosixPath(unquote(address).replace("\\", "/")).name.split(".")[0]
        yield stem
        yield _UPLOADED.sub("", stem)


def image_file(key: str, folder: Path) -> Path | None:
    """Return the image file that a key names inside `folder`; None if there is none.

    Links in the folder are followed, because large images are often stored elsewhere. A key cannot lead out of the
    folder.
    """
    home = os.path.abspath(folder)
    try:
        path = Path(os.path.normpath(os.path.join(home, key)))
        inside = path.is_relative_to(home) and path.is_file()
        return path if inside and path.stat().st_size <= _MAX_FILE else None
    except (OSError, ValueError):  # a key may be an invalid path
        return None


def read_image(path: Path) -> bytes:
    """Read a file returned by `image_file`.

    Raises:
        BadRowError: the file cannot be read; the message is the reason.
    """
    try:
        return read_small(path, _MAX_FILE)
    except (OSError, DamagedError) as error:
        raise BadRowError(f"the image {path.name} cannot be read ({reason_of(error)})") from error


def _pixels_of_file(path: Path) -> str:
    data = read_image(path)
    try:
        return pixels_of(data)
    except BadRowError as error:
        raise BadRowError(f"{path.name}: {error}") from error


def _of_prompt(pixels: str, prompt: int) -> str:
    """Return the key of an image whose pixels occur in samples of several prompts."""
    return f"{pixels} {prompt}"


def pixels_of(data: bytes) -> str:
    """Return the hash of an image's pixels.

    Raises:
        BadRowError: the bytes are not an image; the message is the reason.
    """
    try:
        return pixels_sha256(decode_image(data))
    except DamagedError as error:
        raise BadRowError(str(error)) from error
